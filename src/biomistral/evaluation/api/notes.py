"""What a reader has to know of letters that a server did not name among the likeliest tokens."""

from collections.abc import Sequence

from biomistral.evaluation.api.asks import Ask
from biomistral.evaluation.api.rows import Entry, missing_letters


def letter_notes(asks: Sequence[tuple[Ask, Entry | None]], tops: dict[str, int]) -> list[str]:
    """Per protocol: how many questions lacked which letters, and what was done then. An ask without an entry was put in words."""
    by_protocol: dict[str, list[tuple[Ask, Entry | None]]] = {}
    for ask, entry in asks:
        by_protocol.setdefault(ask.id[0], []).append((ask, entry))
    return [note for name, found in by_protocol.items() for note in _of_protocol(name, found, tops[found[0][0].route])]


def _of_protocol(name: str, found: Sequence[tuple[Ask, Entry | None]], top: int) -> list[str]:
    notes = []
    if wordless := sum(entry is None for _, entry in found):
        notes.append(f"{name}: {wordless} questions had none of their letters among the likeliest {top} tokens and were asked "
                     "for an answer in words instead")
    lacking = [lost for lost in (missing_letters(ask, entry) for ask, entry in found if entry is not None) if lost[0]]
    if lacking:
        letters = ", ".join(sorted({letter for lost, _ in lacking for letter in lost}))
        notes.append(f"{name}: in {len(lacking)} questions a letter (of {letters}) was not among the likeliest {top} tokens and "
                     f"counts as 0; it had at most {max(most for _, most in lacking):.2g}")
    return notes
