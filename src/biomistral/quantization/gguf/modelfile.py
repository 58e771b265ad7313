"""The ``Modelfile`` by which Ollama takes up a GGUF file: its chat template, where it stops, how it samples."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.quantization.gguf.chat import frame_of, ollama_template

_SAMPLING = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
             "repetition_penalty": "repeat_penalty"}


def modelfile(file: str, tokenizer: PreTrainedTokenizerBase, generation: dict[str, Any], adds_bos: bool,
              licence: str | None) -> str:
    """The text of a Modelfile; ``generation`` is the model's ``generation_config.json``."""
    lines = ["# ollama create NAME -f Modelfile", f"FROM ./{file}", *_template(tokenizer, adds_bos)]
    lines += [f"PARAMETER stop {quoted}" for token in _stops(tokenizer, generation) if (quoted := _quoted(token))]
    if generation.get("do_sample"):
        lines += [f"PARAMETER {theirs} {_number(generation[ours])}" for ours, theirs in _SAMPLING.items()
                  if generation.get(ours) is not None]
    stated = _quoted(licence) if licence else None
    return "\n".join([*lines, *([f"LICENSE {stated}"] if stated else [])]) + "\n"


def _template(tokenizer: PreTrainedTokenizerBase, adds_bos: bool) -> list[str]:
    frame = frame_of(tokenizer, adds_bos)
    quoted = _quoted(ollama_template(frame)) if frame else None
    if frame and quoted:
        unsaid = [] if frame.system else ["# the model's chat template takes no system message: none is passed on"]
        return [*unsaid, f"TEMPLATE {quoted}"]
    if tokenizer.chat_template:
        return ["# the model's chat template does more than put text around messages: Ollama takes it from the file if it knows "
                "it"]
    return ["# a model without a chat template: text goes to it as it is", 'TEMPLATE "{{ .Prompt }}"']


def _stops(tokenizer: PreTrainedTokenizerBase, generation: dict[str, Any]) -> list[str]:
    """The tokens that end an answer, in the order they are named."""
    named = generation.get("eos_token_id")
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    known = [number for number in dict.fromkeys(ids) if number is not None and number < len(tokenizer)]
    return [str(tokenizer.convert_ids_to_tokens(number)) for number in known]


def _quoted(text: str) -> str | None:
    """A text between quotes; None if it holds the quotes that would be needed, or characters that Ollama's reader leaves out: it
    keeps what is printable (no other spaces than the plain one), tabs and ends of lines."""
    if any(not (mark.isprintable() or mark in "\t\n") for mark in text):
        return None
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    return None if '"""' in text or text.endswith('"') else f'"""{text}"""'


def _number(value: Any) -> Any:
    """Ollama takes no 50.0 where it expects a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_generation(folder: Path) -> dict[str, Any]:
    """``generation_config.json``, or nothing where there is none.

    Raises:
        UserError: it is no JSON object.
    """
    path = folder / "generation_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); mend it or remove it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object was expected; mend it or remove it")
    return found
