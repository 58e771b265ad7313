"""What a reader has to know of how a server answered: letters it did not name, prompts that it seems to have cut."""

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


_ALIKE, _SPREAD = 3, 1.1
"""Prompts of one count, and how much longer the longest of them is: tokens of a text vary less where it is read whole."""


def cut_notes(asks: Sequence[tuple[Ask, Entry]]) -> list[str]:
    """Per language: prompts that the server counts at the same, greatest number of tokens although their lengths differ.

    Some servers (Ollama, llama.cpp told to shift its context) drop the start of a prompt that is longer than their context, and
    say nothing: all that shows it is that no prompt takes more tokens than they keep.
    """
    by_language: dict[str, list[tuple[int, int]]] = {}
    for ask, entry in asks:
        if entry["counted"]:
            by_language.setdefault(ask.question.language, []).append((entry["tokens"][0], len(ask.prompt)))
    notes = []
    for language, found in by_language.items():
        most = max(tokens for tokens, _ in found)
        lengths = sorted({length for tokens, length in found if tokens == most})
        if len(lengths) >= _ALIKE and lengths[-1] > _SPREAD * lengths[0]:
            many = sum(tokens == most for tokens, _ in found)
            notes.append(f"{language}: the server counts {many} prompts of {lengths[0]:,} to {lengths[-1]:,} characters at "
                         f"{most:,} tokens each, and none at more: it may have cut them; give its model a longer context, or ask "
                         "with fewer shots")
    return notes
