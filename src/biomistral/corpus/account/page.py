"""The statistics page of a corpus: ``statistics.html``, opened from disk without network or scripts, and its numbers as JSON."""

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from biomistral import __version__
from biomistral.corpus.account.numbers import TOP, statistics
from biomistral.files import write_json, write_text

DASH = "–"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_LONGEST_SHOWN = 300
REASONS = {
    "licence": "its licence is not among those that pass, or it states none", "language": "its language is not among those kept",
    "article_type": "an article type that is left out", "retracted": "it is retracted or withdrawn, or a notice of that",
    "too_short": "fewer words than the shortest document may have", "too_long": "more words than the longest document may have",
    "not_prose": "mostly digits and symbols", "tables": "mostly tables", "references": "mostly a list of references",
    "garbled": "broken characters and words, as scanning leaves them", "symbols": "many number signs or ellipses",
    "bullets": "mostly bullets", "boilerplate": "mostly phrases of forms and publishers", "repetitive": "repeats itself",
    "word_length": "words far shorter or longer than those of a text", "contaminated": "holds part of a benchmark's question",
    "duplicate_id": "another document has the same id", "duplicate": "word for word a copy of another document",
    "near_duplicate": "nearly the same words as another document",
    "over_budget": "the token budget, or its source's or language's share of it, was full", "empty": "nothing to read in it",
    "malformed": "not readable as what it says it is", "not_an_article": "XML of another kind",
    "encoding": "not in the encoding it declares", "entities": "uses entities that are not HTML's",
    "truncated": "the file ends early", "damaged": "the file is damaged", "unreadable": "the system could not read the file",
    "too_large": "larger than a document may be", "bomb": "unpacks to far more than its size",
    "unsafe_member": "a path, link or device that has no place in an archive",
}
"""What each reason means, for a reader; one that is not here is shown by its name alone."""

TASK_COLUMNS = {
    "too_short": "Too short to look for", "found": "Questions found", "documents": "Documents that hold one",
    "words_lost": "Words lost", "words_lost_alone": "Words lost to it alone",
}
"""Headings of the decontamination table that say more than the column's name."""


def write_statistics(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``statistics.json`` and ``statistics.html`` into a corpus folder whose other files are written.

    Args:
        folder: the corpus folder (docs/formats.md).
        facts: see `biomistral.corpus.account.numbers.statistics`.
    """
    found = statistics(folder, facts)
    write_json(folder / "statistics.json", found)
    write_text(folder / "statistics.html", render(found))


def render(found: dict[str, Any]) -> str:
    """The page as HTML: every value from the corpus is escaped, and isolated where it may run from right to left."""
    environment = Environment(loader=PackageLoader("biomistral.corpus.account", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "share": share, "shown": shown, "value": setting, "words": in_words}
    return environment.get_template("page.html.j2").render(found, reasons=REASONS, task_columns=TASK_COLUMNS,
                                                           version=__version__, top=TOP)


def number(value: float | None) -> str:
    """``1,234,567``, ``1.5``, a dash of nothing."""
    return DASH if value is None else f"{value:,}"


def share(part: float, whole: float) -> str:
    """``12.3 %`` of a whole (with a space that does not break); a part that is there never shows as 0.0 %."""
    if not whole:
        return DASH
    percent = 100 * part / whole
    text = "< 0.1" if 0 < percent < 0.05 else "> 99.9" if 99.95 <= percent < 100 else f"{percent:.1f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def shown(text: str | None, most: int = _LONGEST_SHOWN) -> str:
    """Text of a document as a page may hold it: control characters replaced, cut at ``most`` characters."""
    clean = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text or "")
    return clean if len(clean) <= most else clean[:most] + "…"


def setting(value: Any) -> str:
    """A setting's value as it stands in a recipe."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def in_words(name: str) -> str:
    """``near_duplicate`` as words."""
    return name.replace("_", " ")
