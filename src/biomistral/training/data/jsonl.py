"""Examples for fine-tuning as they stand in files: prompts with completions, or conversations."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.errors import UserError

_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Example:
    """A prompt and its completion, or the messages of a conversation; and where that stands (``file:line``)."""

    id: str
    place: str
    prompt: str = ""
    completion: str = ""
    messages: tuple[dict[str, Any], ...] = ()


def read_examples(path: Path) -> Iterator[Example]:
    """Read examples, one JSON object a line: ``{"prompt", "completion"}`` or ``{"messages": [{"role", "content"}, ...]}``.

    ``id`` is optional (else it is ``FILE:LINE``); other keys are left alone.

    Raises:
        UserError: the file is not there, empty or not UTF-8, or a line is malformed (the message names file and line).
    """
    empty = True
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    empty = False
                    yield _parse(line, f"{path}:{number}", f"{path.name}:{number}")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    if empty:
        raise UserError(f"{path}: holds no examples")


def _parse(line: bytes, place: str, name: str) -> Example:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: not a line of JSON in UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON object with prompt and completion, or with messages, was expected, this is a "
                        f"{type(row).__name__}")
    name = str(row.get("id", name))
    if "messages" not in row:
        return _parse_pair(row, place, name)
    if "prompt" in row or "completion" in row:
        raise UserError(f"{place}: has both messages and a prompt or completion; keep one of the two")
    return Example(name, place, messages=_parse_messages(row["messages"], place))


def _parse_pair(row: dict[str, Any], place: str, name: str) -> Example:
    for key in ("prompt", "completion"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{place}: '{key}' is {'missing' if key not in row else 'not a text'}")
        _check_text(row[key], key, place)
    if not row["completion"].strip():
        raise UserError(f"{place}: the completion is empty")
    return Example(name, place, row["prompt"], row["completion"])


def _check_text(text: str, key: str, place: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no UTF-8."""
    if _HALF.search(text):
        raise UserError(f"{place}: '{key}' holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")


def _parse_messages(messages: Any, place: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{place}: 'messages' is not a list of messages")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise UserError(f"{place}: {where} is not an object with role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise UserError(f"{place}: {where}: '{key}' is {'missing' if key not in message else 'not a text'}")
            _check_text(message[key], key, place)
        if message["role"] == "assistant" and not message["content"].strip():
            raise UserError(f"{place}: {where}: the assistant's content is empty")
    if messages[0]["role"] == "assistant":
        raise UserError(f"{place}: the conversation begins with the assistant; put what it answers before it")
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{place}: no message is the assistant's, so there is nothing to learn")
    return tuple(messages)
