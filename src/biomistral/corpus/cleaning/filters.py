"""Quality filters: each measures one share of a document, and a document beyond its threshold is refused with the reason.

What they look at are arrays over code points and words (see ``shingles``) and the text's lines; no rule knows a language.
A measure that is slow to take is bounded first: it is exact where it exceeds the threshold, and may be too low elsewhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from biomistral.corpus.cleaning import repetition
from biomistral.corpus.cleaning.shingles import Words, words_of
from biomistral.corpus.settings import CorpusSettings, FilterSettings

Reason = tuple[str, str] | None
"""(reason, detail), or None to keep the document."""

Classes: TypeAlias = npt.NDArray[np.uint8]
_SPACE, _SYMBOL, _HASH, _DOT, _COPYRIGHT, _BROKEN, _DIGIT, _OTHER, _LETTER, _CONSONANT = range(10)
_CASED_SCRIPTS = 0x530  # below: Latin, Greek and Cyrillic
_LONGEST_REFERENCE = 600
_LONGEST_BOILERPLATE = 300
_BOILERPLATE = re.compile(
    r"\bcookies?\b|javascript|click here|\blogin\b|\bsign (?:in|up)\b|\bsubscribe\b|newsletter|\bpassword\b|web browser|\bissn\b"
    r"|all rights reserved|^\W*copyright|^©|\bdownload\b.*\b(?:pdf|citation|article)\b|\bview pdf\b|\borcid\b|^correspondence\b"
    r"|^received\b.*\baccepted\b|reprints and permissions", re.IGNORECASE)
_BOILERPLATE_WORDS = ("cookie cookies javascript click login sign subscribe newsletter password browser issn reserved copyright "
                      "download pdf orcid correspondence accepted reprints")  # one of them stands in all but ©
_PDF_WORD = "cid"  # "(cid:3)" is a character that a PDF's reader could not name
_NUMBERED = re.compile(r"(?:\[\d+\]|\d{1,3}[.)])\s")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_NUMBER_STARTS = frozenset("[0123456789")
_BULLETS = frozenset("-•*‣▪◦")


@dataclass(frozen=True)
class View:
    """A text as the filters look at it."""

    text: str
    words: Words

    @cached_property
    def rows(self) -> list[str]:
        """Lines and the empty lines that part paragraphs."""
        return self.text.split("\n")

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.rows if line]

    @cached_property
    def copies(self) -> tuple[float, float]:
        """Shares of the lines, and of their characters, that copy an earlier line."""
        return repetition.repeated(self.lines)

    @cached_property
    def classes(self) -> Classes:
        """The class of every character."""
        return _class_table().take(self.words.codes, mode="clip")

    @cached_property
    def visible(self) -> int:
        """Characters that are no white space."""
        return int(np.count_nonzero(self.classes))

    @cached_property
    def symbols(self) -> int:
        """Number signs, ellipses, and full stops that follow two others."""
        dots = self.classes == _DOT
        return int(np.count_nonzero(dots[2:] & dots[1:-1] & dots[:-2])) + self.number(_HASH)

    @cached_property
    def marks(self) -> Classes:
        """1 for words of boilerplate, 2 for years, 3 for "cid"; 0 for nearly all others, two in a thousand are mistaken."""
        return _marked_words().take(self.words.hashes >> np.uint64(48))

    def number(self, kind: int) -> int:
        """Characters of one class."""
        return int(np.count_nonzero(self.classes == kind))

    def per_line(self, count: int) -> float:
        return count / max(1, len(self.lines))

    def per_word(self, count: int) -> float:
        return count / max(1, len(self.words))


@cache
def _class_table() -> Classes:
    """Per code point its class. Broken are characters that no author wrote: U+FFFD, private use, C1 controls."""
    table: Classes = np.full(0x30000, _SYMBOL, np.uint8)
    for code in range(len(table)):
        character = chr(code)
        if character.isspace():
            table[code] = _SPACE
        elif character.isalpha():
            table[code] = _LETTER if code < _CASED_SCRIPTS else _OTHER
        elif character.isnumeric():
            table[code] = _DIGIT
    for letters, kind in (("bcdfghjklmnpqrstvwxz", _CONSONANT), ("#…", _HASH), (".", _DOT), ("©", _COPYRIGHT),
                          ("\ufffd", _BROKEN)):
        table[[ord(letter) for letter in letters]] = kind
    table[0x80:0xA0] = table[0xE000:0xF900] = _BROKEN
    return table


@cache
def _marked_words() -> Classes:
    """By the first 16 bits of a word's hash: see `View.marks`."""
    marks: Classes = np.zeros(1 << 16, np.uint8)
    for mark, words in ((3, _PDF_WORD), (2, " ".join(map(str, range(1900, 2100)))), (1, _BOILERPLATE_WORDS)):
        marks[words_of(words).hashes >> np.uint64(48)] = mark
    return marks


# ---- measures: shares of what is wrong, from 0 --------------------------------------------------------------------------


def other_characters(view: View, most: float) -> float:
    """Visible characters that are no letters: digits, symbols."""
    return 1 - int(np.count_nonzero(view.classes >= _OTHER)) / max(1, view.visible)


def table_characters(view: View, most: float) -> float:
    """Characters in rows of tables, whose cells " | " parts."""
    return sum(len(line) for line in view.lines if "|" in line and " | " in line) / max(1, len(view.text))


def reference_lines(view: View, most: float) -> float:
    """Lines that are entries of a reference list: short, with a year, and numbered, with a DOI or with "et al.".

    The row of a table of studies is none. Each holds a year, so years bound them.
    """
    if view.per_line(int(np.count_nonzero(view.marks))) <= most:
        return 0.0
    marked = (line for line in view.lines if len(line) <= _LONGEST_REFERENCE
              and ("doi" in line or "et al" in line or (line[0] in _NUMBER_STARTS and _NUMBERED.match(line))))
    return view.per_line(sum(_YEAR.search(line) is not None and " | " not in line for line in marked))


def boilerplate_lines(view: View, most: float) -> float:
    """Short lines of web pages and of journals' front matter: cookies, log-in, copyright, dates of submission."""
    if view.per_line(int(np.count_nonzero(view.marks == 1)) + view.number(_COPYRIGHT)) <= most:
        return 0.0
    return view.per_line(sum(len(line) <= _LONGEST_BOILERPLATE and _BOILERPLATE.search(line) is not None for line in view.lines))


def broken_words(view: View, most: float) -> float:
    """Signs of bad character recognition, per word.

    They are: l e t t e r s apart, digits amid letters (th1s, 0f th3), six or more lower-case consonants in a row, characters
    that no author wrote, and "(cid:3)". Real names have them too: Os01g0611000, C57BL6J.
    """
    classes = view.classes
    letter, digit = classes >= _LETTER, classes == _DIGIT
    amid = (letter[:-2] & digit[1:-1] & letter[2:]) | (digit[:-2] & letter[1:-1] & digit[2:])
    count = int(np.count_nonzero(amid)) + view.number(_BROKEN) + int(np.count_nonzero(view.marks == 3))
    return view.per_word(count + _consonant_runs(classes) + _spaced_letters(view))


def _consonant_runs(classes: Classes) -> int:
    one = classes == _CONSONANT
    two = one[:-1] & one[1:]
    four = two[:-2] & two[2:]
    six = four[:-2] & two[4:]
    return int(np.count_nonzero(six[1:] > six[:-1])) + int(six[:1].sum())


def _spaced_letters(view: View) -> int:
    """Words of one letter that stand with three others in a row."""
    single = np.flatnonzero(view.words.ends - view.words.starts == 1)
    single = single[view.classes[view.words.starts[single]] >= _LETTER]
    return int(np.count_nonzero(single[3:] - single[:-3] == 3))


def symbols(view: View, most: float) -> float:
    """Number signs and ellipses per word."""
    return view.per_word(view.symbols)


def bullet_lines(view: View, most: float) -> float:
    """Lines that begin with a bullet."""
    return view.per_line(sum(line[0] in _BULLETS and line[1:2] == " " for line in view.lines))


def ellipsis_lines(view: View, most: float) -> float:
    """Lines that end with an ellipsis."""
    return view.per_line(sum(line.endswith(("…", "...")) for line in view.lines)) if view.per_line(view.symbols) > most else 0.0


def repeated_lines(view: View, most: float) -> float:
    """Lines that copy an earlier one."""
    return view.copies[0]


def repeated_characters(view: View, most: float) -> float:
    """Characters in lines that copy an earlier one."""
    return view.copies[1]


def repeated_paragraphs(view: View, most: float) -> float:
    """Paragraphs that copy an earlier one. Their lines do so too, so repeated lines bound them."""
    paragraphs = len(view.rows) - len(view.lines) + 1
    return repetition.repeated(view.text.split("\n\n"))[0] if view.copies[0] * len(view.lines) > most * paragraphs else 0.0


# ---- the rules ----------------------------------------------------------------------------------------------------------

_MEASURES: tuple[tuple[str, str, Callable[[View, float], float], str], ...] = (
    ("not_prose", "other_characters", other_characters, "of the characters are no letters"),
    ("tables", "table_characters", table_characters, "of the characters stand in tables"),
    ("references", "reference_lines", reference_lines, "of the lines are references"),
    ("ocr", "broken_words", broken_words, "broken characters and words a word"),
    ("symbols", "symbols", symbols, "number signs and ellipses a word"),
    ("bullets", "bullet_lines", bullet_lines, "of the lines are bullets"),
    ("symbols", "ellipsis_lines", ellipsis_lines, "of the lines end with an ellipsis"),
    ("boilerplate", "boilerplate_lines", boilerplate_lines, "of the lines are boilerplate"),
    ("repetitive", "repeated_lines", repeated_lines, "of the lines repeat others"),
    ("repetitive", "repeated_characters", repeated_characters, "of the characters stand in lines that repeat others"),
    ("repetitive", "repeated_paragraphs", repeated_paragraphs, "of the paragraphs repeat others"),
)
"""Reason, setting, measure, and what the detail says after the number."""


def quality(text: str, words: Words, settings: CorpusSettings) -> Reason:
    """The first rule that refuses the text, or None."""
    filters, view = settings.filters, View(text, words)
    if reason := _length(words, settings):
        return reason
    for reason_name, setting, measure, said in _MEASURES:
        most = getattr(filters, setting)
        if most is not None and (share := measure(view, most)) > most:
            return reason_name, f"{share:.2f} {said}"
    return _word_length(view, filters) or _repeated_words(words, filters)


def _length(words: Words, settings: CorpusSettings) -> Reason:
    """Fewer words than ``min_words`` or more than ``filters.words`` (each ideograph is one)."""
    if len(words) < settings.min_words:
        return "too_short", f"{len(words)} words"
    longest = settings.filters.words
    return ("too_long", f"{len(words)} words") if longest is not None and len(words) > longest else None


def _word_length(view: View, filters: FilterSettings) -> Reason:
    """Mean letters and digits a word; texts in scripts that are neither Latin, Greek nor Cyrillic are passed over."""
    if 2 * int(np.count_nonzero(view.classes == _OTHER)) > view.visible:
        return None
    mean = view.per_word(int(np.count_nonzero(view.classes >= _DIGIT)))
    too_low = filters.shortest_word_length is not None and mean < filters.shortest_word_length
    too_high = filters.word_length is not None and mean > filters.word_length
    return ("word_length", f"{mean:.1f} letters a word") if too_low or too_high else None


def _repeated_words(words: Words, filters: FilterSettings) -> Reason:
    for sizes, most, measure, said in ((range(2, 5), filters.top_ngrams, repetition.top_ngrams, "the most frequent sequence"),
                                       (range(5, 11), filters.repeated_ngrams, repetition.repeated_ngrams, "repeated sequences")):
        found = measure(words.hashes, sizes, most) if most is not None else None
        if found is not None:
            return "repetitive", f"{found[1]:.2f} of the words stand in {said} of {found[0]} words"
    return None
