"""Keys and tokens in files that are about to leave the machine: found by their shape, or because the environment holds them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_SHAPES = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}", "an OpenAI-like key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36,}", "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a password in an address": rb"https?://[^\s/:@\"']+:[^\s/@\"']+@",
}
_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST = 12
"""Characters: a shorter value of an environment variable stands in many texts by chance."""
_TEXT = (".json", ".jsonl", ".md", ".txt", ".tsv", ".csv", ".yaml", ".yml", ".html", ".svg", ".jinja", ".model", "")
_CHUNK, _OVERLAP = 1 << 20, 4096


def held() -> dict[str, bytes]:
    """Secrets of this process' environment by the variable's name."""
    return {name: value.encode() for name, value in os.environ.items()
            if _NAMES.search(name) and len(value) >= _SHORTEST and not os.path.exists(value)}


def secrets_in(path: Path) -> list[str]:
    """What kinds of secrets a text file holds; never the secret itself."""
    if path.suffix not in _TEXT:
        return []
    own, found = held(), dict[str, None]()
    for chunk in _chunks(path):
        found |= {kind: None for kind, shape in _SHAPES.items() if re.search(shape, chunk)}
        found |= {f"the value of {name}": None for name, value in own.items() if value in chunk}
    return list(found)


def without(text: str, secrets: dict[str, bytes]) -> str:
    """Text in which the values of these are stars."""
    for value in secrets.values():
        text = text.replace(value.decode(), "***")
    return text


def _chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces that overlap, so that nothing short is cut in two."""
    with path.open("rb") as stream:
        last = b""
        while chunk := stream.read(_CHUNK):
            yield last + chunk
            last = chunk[-_OVERLAP:]
