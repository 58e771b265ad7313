"""OpenAI's protocol: what is asked in completions and chats, and the shapes of what is answered."""

import math
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from biomistral.chat.speech import Said
from biomistral.chat.text import Pieces


class _Asked(BaseModel):
    """What both routes have. Fields that would change the answer and are not known are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: Literal[1] = 1
    user: str | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionAsked(_Asked):
    prompt: str | list[int] | list[str]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=1000)


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """
        Raises:
            ValueError: the content is no text.
        """
        if isinstance(self.content, list):
            if any(part.get("type") != "text" for part in self.content):
                raise ValueError("only text can be read")
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatAsked(_Asked):
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=1000)
    response_format: dict[str, Any] | None = None


def head(kind: str, model: str) -> dict[str, Any]:
    """What every reply begins with."""
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def completion_logprobs(tokens: Sequence[Said], pieces: Pieces, start: int = 0) -> dict[str, Any]:
    """As completions have them: parallel lists; the first token of a text has none."""
    texts = [pieces.of(one.token) for one in tokens]
    offsets, place = [], start
    for text in texts:
        offsets.append(place)
        place += len(text)
    return {"tokens": texts, "text_offset": offsets, "token_logprobs": [_number(one.logprob) for one in tokens],
            "top_logprobs": [_best(one, pieces) for one in tokens]}


def _best(one: Said, pieces: Pieces) -> dict[str, float] | None:
    """Likeliest tokens by their text; of two with the same text the likelier counts."""
    if math.isnan(one.logprob):
        return None
    found: dict[str, float] = {}
    for token, logprob in one.top:
        found.setdefault(pieces.of(token), logprob)
    return found


def chat_logprobs(tokens: Sequence[Said], pieces: Pieces) -> dict[str, Any]:
    """As chats have them: an object a token."""
    return {"content": [{**_token(one.token, one.logprob, pieces),
                         "top_logprobs": [_token(token, logprob, pieces) for token, logprob in one.top]} for one in tokens],
            "refusal": None}


def _token(token: int, logprob: float, pieces: Pieces) -> dict[str, Any]:
    text = pieces.of(token)
    return {"token": text, "logprob": _number(logprob), "bytes": list(text.encode("utf-8", "surrogatepass"))}


def _number(value: float) -> float | None:
    """JSON has no infinities: a token that cannot be gets a very small log-probability."""
    return None if math.isnan(value) else max(value, -9999.0)
