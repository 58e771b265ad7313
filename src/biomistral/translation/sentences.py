"""Long texts cut where a sentence ends, in any script, so that what was cut can be put together again."""

import bisect
import re
from collections.abc import Callable, Iterator, Sequence

_END = re.compile(
    r"\s*\n\s*"  # a line ends whatever stands on it
    r"|(?:[.!?…]+|[।॥۔؟።]+)[\"'”’»)\]]*(?P<gap>[^\S\n]+)"  # with a space: Latin, Cyrillic, Greek, Arabic, Devanagari, Ethiopic
    r"|[。！？｡]+[」』”’）]*(?P<close>[^\S\n]*)")  # without: Chinese, Japanese
_ABBREVIATIONS = (
    "al approx art bid ca cf dr e.g eq eqs etc fig figs i.e i.m i.v incl lat max med min mr mrs ms no nos nr p.o pp prof q.d ref "
    "refs resp s.c sect sp spp ssp st subsp t.i.d tab tid var viz vol vs b.i.d q.i.d z.b d.h p.ex sra sr dra")
_WORD = re.compile(r"[^\s(\[\"'“‘«]+$")
_CLAUSE = re.compile(r"(?:[,;:،；](?=\s)|[，、；：])\s*")


def sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence with the white space behind it; put together they are the text again, character by character.

    A full stop ends none behind an abbreviation, an initial or a genus ("E. coli"), or before a small letter.
    """
    start = 0
    for found in _END.finditer(text):
        if found["gap"] is not None and not _ends(text, found):
            continue
        gap = found["gap"] if found["gap"] is not None else found["close"]
        end = found.start() if gap is None else found.end() - len(gap)
        if end > start or found.end() > end:
            yield text[start:end], text[end:found.end()]
        start = found.end()
    if start < len(text):
        yield text[start:], ""


def _ends(text: str, found: re.Match[str]) -> bool:
    if not found[0].startswith(".") or found[0].startswith(".."):
        return True
    if text[found.end():found.end() + 1].islower():
        return False
    word = _WORD.search(text, max(0, found.start() - 12), found.start())
    last = word[0] if word else ""
    return last.lower() not in _ABBREVIATIONS.split() and not (len(last) == 1 and last.isupper())


Fits = Callable[[str], bool]
"""Whether a text is short enough. What is shorter than one that is, is too."""


def _longest(text: str, places: Sequence[int], fits: Fits) -> int:
    """The last of these places before which all of a text fits; 0: there is none."""
    found = bisect.bisect_left(places, True, key=lambda place: not fits(text[:place]))
    return places[found - 1] if found else 0


def _cut(sentence: str, fits: Fits) -> Iterator[tuple[str, str]]:
    """A sentence that is too long, cut behind a comma or the like, else at a space, else anywhere."""
    while len(sentence) > 1 and not fits(sentence):
        most = _longest(sentence, range(1, len(sentence)), fits) or 1
        place = _longest(sentence, [found.end() for found in _CLAUSE.finditer(sentence)], fits)
        if place <= most // 4:
            place = sentence.rfind(" ", 0, most) + 1 or most
        piece = sentence[:place]
        yield piece.rstrip(), piece[len(piece.rstrip()):]
        sentence = sentence[place:]
    yield sentence, ""


def pieces(text: str, fits: Fits, together: bool) -> list[tuple[str, str]]:
    """Pieces that fit, each with the white space behind it: sentences, or as many as fit, ``together``."""
    found: list[tuple[str, str]] = []
    for sentence, gap in sentences(text):
        cut = [*_cut(sentence, fits)]
        cut[-1] = (cut[-1][0], gap)
        for piece, behind in cut:
            if together and found and fits(found[-1][0] + found[-1][1] + piece):
                found[-1] = (found[-1][0] + found[-1][1] + piece, behind)
            else:
                found.append((piece, behind))
    return found
