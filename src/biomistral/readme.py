"""The README of an artifact: the part that commands write, and what people write around it.

A README is about an artifact and no part of what it holds: manifests leave it out, so that it can be written, read and mended
after the folder is finished. The part that commands write is marked and carries a hash, so that an edit inside it is noticed.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomistral.errors import UserError
from biomistral.recipe import canonical_hash

README = "README.md"
_BEGIN = "<!-- biomistral: a command wrote what follows; write your own above or below it -->"
_END = "<!-- biomistral: up to here, {digest} -->"
_FRONT = re.compile(r"\s*---\n(.*?\n)---\n", re.DOTALL)
_PART = re.compile(re.escape(_BEGIN) + "\n(.*)\n" + re.escape(_END).replace(re.escape("{digest}"), "([0-9a-f]{16})") + "\n?",
                   re.DOTALL)


@dataclass(frozen=True)
class Readme:
    """A README in its pieces; ``before`` and ``after`` are people's, kept whatever is written between them."""

    front: str
    before: str
    part: str | None
    after: str
    digest: str

    @property
    def untouched(self) -> bool:
        """Whether front matter and part are as a command wrote them."""
        return self.part is not None and self.digest == _digest(self.front, self.part)


def compose(front: str, part: str, before: str = "", after: str = "") -> str:
    """The text of a README: YAML front matter, then the marked part between what people wrote."""
    return f"---\n{front}---\n{before}{_BEGIN}\n{part}\n{_END.format(digest=_digest(front, part))}\n{after}"


def take_apart(text: str) -> Readme:
    """The pieces of a README; ``part`` is None where no command wrote it."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    front, rest = _split(text)
    found = _PART.search(rest)
    if found is None:
        return Readme(front, rest, None, "", "")
    return Readme(front, rest[:found.start()], found[1], rest[found.end():], found[2])


def renewed(path: Path, front: str, part: str, force: bool) -> str:
    """The text of a README that is there or not, with a new front matter and part; what people wrote around it stays.

    Raises:
        UserError: it was written by hand, or edited where commands write, and ``force`` is off.
    """
    if not path.is_file():
        return compose(front, part)
    old = take_apart(_text(path))
    if not old.untouched and not force:
        what, it = ("was not written by this command", "it") if old.part is None else (
            "was edited inside the part that this command writes", "that part")
        raise UserError(f"{path}: {what}; write elsewhere with --out, or replace {it} with --force")
    return compose(front, part) if old.part is None else compose(front, part, old.before, old.after)


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML front matter of a README; empty where there is none or it cannot be read: a card is for people."""
    if not path.is_file():
        return {}
    try:
        data = yaml.safe_load(_split(path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n"))[0])
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def stated_licence(folder: Path) -> str | None:
    """What the README of a folder states as its licence."""
    stated = front_matter(folder / README).get("license")
    return stated if isinstance(stated, str) and stated else None


def _split(text: str) -> tuple[str, str]:
    found = _FRONT.match(text)
    return (found[1], text[found.end():]) if found else ("", text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); write elsewhere with --out") from error


def _digest(front: str, part: str) -> str:
    return canonical_hash([front, part])[:16]
