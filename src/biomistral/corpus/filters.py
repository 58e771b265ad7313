"""Quality filters: each looks at a text and returns None (keep) or why not."""

import re
from collections.abc import Callable

import numpy as np

from biomistral.corpus.shingles import Words, ngrams

MIN_LETTERS = 0.5
MAX_REFERENCE_LINES = 0.5
REPEATED_WORDS = 10

Reason = tuple[str, str] | None
"""(reason, detail), or None to keep the document."""

_NO_LETTERS = re.compile(r"[\W\d_]+")
_NUMBERED = re.compile(r"\s*(?:\[\d+\]|\d{1,3}[.)])\s")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_LONGEST_REFERENCE = 600


def too_short(text: str, words: Words, min_words: int) -> Reason:
    """Fewer than ``min_words`` words (each ideograph is one)."""
    return ("too_short", f"{len(words)} words") if len(words) < min_words else None


def not_prose(text: str) -> Reason:
    """Fewer than half of its characters, spaces aside, are letters: mostly digits, tables of numbers or symbols."""
    visible = len("".join(text.split()))
    share = len(_NO_LETTERS.sub("", text)) / max(1, visible)
    return ("not_prose", f"{share:.2f} of the characters are letters") if share < MIN_LETTERS else None


def references(text: str) -> Reason:
    """More than half of its lines are entries of a reference list."""
    lines = [line for line in text.splitlines() if line.strip()]
    share = sum(map(_is_reference, lines)) / max(1, len(lines))
    return ("references", f"{share:.2f} of the lines are references") if share > MAX_REFERENCE_LINES else None


def _is_reference(line: str) -> bool:
    """Short, with a year, and numbered, with a DOI or with "et al."; the row of a table of studies is none."""
    if len(line) > _LONGEST_REFERENCE or " | " in line:
        return False
    marked = "doi" in line or "et al" in line or _NUMBERED.match(line) is not None
    return marked and _YEAR.search(line) is not None


def repetitive(words: Words, max_repetition: float) -> Reason:
    """Too many of its 10-word sequences occur more than once."""
    grams = np.sort(ngrams(words.hashes, REPEATED_WORDS))
    share = float((grams[1:] == grams[:-1]).sum()) / max(1, len(grams))
    return ("repetitive", f"{share:.2f} of the 10-word sequences repeat others") if share > max_repetition else None


def quality(text: str, words: Words, min_words: int, max_repetition: float) -> Reason:
    """The first filter that refuses the text, or None."""
    checks: tuple[Callable[[], Reason], ...] = (
        lambda: too_short(text, words, min_words), lambda: not_prose(text), lambda: references(text),
        lambda: repetitive(words, max_repetition))
    return next((reason for check in checks if (reason := check()) is not None), None)
