"""Options that stand in one text, a letter before each: "(A) ... (B) ...", "A. ..." on lines, in any script's signs."""

import re
import unicodedata
from itertools import pairwise
from typing import NamedTuple

_ALPHABETS = ("ABCDEFGHIJ", "أبجدهوزحطي", "ابجدهوزحطي", "अबसदइ", "АБВГДЕЖЗИК", "АВСДЕ")
"""By what options are counted: Latin, Arabic (abjad), Hindi, Russian, and Russian letters that only look like Latin ones."""

_FORMS = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.", r"{0}:", r"{0}、", r"{0},", r"{0}(?=\s)")
"""Around a letter, the clearest first; one form holds for all options of a text."""

_INLINE_FORMS = _FORMS[:4]
"""Those that no sentence has by itself: they count inside a line too."""

_SURE_LINES = 3
"""Lettered lines from which on a letter inside a line is part of its text."""


class Lettered(NamedTuple):
    """The options without their letters, and the alphabet of these."""

    options: list[str]
    letters: str


def split_options(text: str) -> Lettered | None:
    """The options; None if the letters do not stand in order from the first, each once, or can be read in two ways.

    A letter counts at the beginning of a line, else behind a space too.
    """
    plain = _plain(text)
    lines = _first(text, plain, r"^[ \t]*", _FORMS)
    inline = _first(text, plain, r"(?:^|(?<=[\s;,.،。]))[ \t]*", _INLINE_FORMS)
    if lines is None or inline is None or len(lines.options) >= min(_SURE_LINES, len(inline.options)):
        return lines or inline
    return None


def place_of(answer: str, letters: str) -> int:
    """The place, from 0, of the letter that an answer is ("(C)", "C.", "Ｃ"), in the options' alphabet or in Latin; -1: none."""
    sign = "".join(sign for sign in _plain(answer) if sign.isalnum())
    return next((alphabet.index(sign) for alphabet in (letters, _ALPHABETS[0]) if len(sign) == 1 and sign in alphabet), -1)


def _plain(text: str) -> str:
    """Brackets, stops and letters of full width as Latin writes them; as long as before."""
    return "".join(folded if len(folded := unicodedata.normalize("NFKC", sign)) == 1 else sign for sign in text)


def _first(text: str, plain: str, where: str, forms: tuple[str, ...]) -> Lettered | None:
    readings = (_read(text, plain, where + form, letters) for form in forms for letters in _ALPHABETS)
    return next((found for found in readings if found), None)


def _read(text: str, plain: str, form: str, letters: str) -> Lettered | None:
    marks = list(re.finditer(form.format(f"([{letters}])"), plain, re.MULTILINE))
    if len(marks) < 2 or [mark[1] for mark in marks] != list(letters[:len(marks)]) or plain[:marks[0].start()].strip():
        return None
    ends = [*((mark.end(), following.start()) for mark, following in pairwise(marks)), (marks[-1].end(), len(text))]
    options = [text[start:end].strip().rstrip(";；，،,").rstrip() for start, end in ends]
    return Lettered(options, letters) if all(options) else None
