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

_REFERENCE = re.compile(r"^\s*(?:\[\d+\]|\d{1,3}[.)])\s.*\b(?:19|20)\d\d\b|\bdoi:|\bet al\b.*\b(?:19|20)\d\d[;:,]", re.IGNORECASE)


def too_short(text: str, words: Words, min_words: int) -> Reason:
    """Fewer than ``min_words`` words (each ideograph is one)."""
    return ("too_short", f"{len(words)} words") if len(words) < min_words else None


def not_prose(text: str) -> Reason:
    """Fewer than half of its characters, spaces aside, are letters: mostly digits, tables of numbers or symbols."""
    visible = [character for character in text if not character.isspace()]
    share = sum(map(str.isalpha, visible)) / max(1, len(visible))
    return ("not_prose", f"{share:.2f} of the characters are letters") if share < MIN_LETTERS else None


def references(text: str) -> Reason:
    """More than half of its lines are entries of a reference list."""
    lines = [line for line in text.splitlines() if line.strip()]
    share = sum(_REFERENCE.search(line) is not None for line in lines) / max(1, len(lines))
    return ("references", f"{share:.2f} of the lines are references") if share > MAX_REFERENCE_LINES else None


def repetitive(words: Words, max_repetition: float) -> Reason:
    """Too many of its 10-word sequences occur more than once."""
    grams = ngrams(words.hashes, REPEATED_WORDS)
    share = 1 - len(np.unique(grams)) / max(1, len(grams))
    return ("repetitive", f"{share:.2f} of the 10-word sequences repeat others") if share > max_repetition else None


def quality(text: str, words: Words, min_words: int, max_repetition: float) -> Reason:
    """The first filter that refuses the text, or None."""
    checks: tuple[Callable[[], Reason], ...] = (
        lambda: too_short(text, words, min_words), lambda: not_prose(text), lambda: references(text),
        lambda: repetitive(words, max_repetition))
    return next((reason for check in checks if (reason := check()) is not None), None)
