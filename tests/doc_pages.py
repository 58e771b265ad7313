"""The documentation's pages as the tests see them: shell blocks, commands, and what is said to be left out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A shell block of a page. ``why`` says why nobody runs it, in the comment before it: ``<!-- not run: ... -->``."""

    page: Path
    text: str
    why: str

    @property
    def steps(self) -> list[str]:
        """Its lines, those that go on (a backslash, a here-document) put together."""
        lines: list[str] = []
        end = ""
        for line in self.text.splitlines():
            if end or (lines and lines[-1].endswith("\\")):
                lines[-1] = lines[-1] + "\n" + line if end else lines[-1][:-1] + line.lstrip()
                end = "" if line == end else end
            elif line.strip() and not line.startswith("#"):
                lines.append(line)
            found = re.search(r"<<'?(\w+)'?", line)
            end = found.group(1) if found and not end else end
        return lines


def blocks(page: Path) -> Iterator[Block]:
    """The ``sh`` blocks of a page, in their order."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if found["kind"] == "sh":
            yield Block(page, found["text"], found["why"] or "")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A page's path below ``docs``."""
    return page.relative_to(DOCS).as_posix()
