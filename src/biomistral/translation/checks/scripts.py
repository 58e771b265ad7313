"""Which letters a language is written in, and whether a translation is."""

import re
from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_RANGES = {"latin": "A-Za-zÀ-ɏḀ-ỿ", "cyrillic": "Ѐ-ԯ", "arabic": "؀-ۿݐ-ݿﭐ-﷿ﹰ-ﻼ", "han": "㐀-䶿一-鿿", "greek": "Ͱ-Ͽ",
           "hebrew": "֐-׿", "kana": "぀-ヿ", "hangul": "가-힯", "devanagari": "ऀ-ॿ", "bengali": "ঀ-৿", "thai": "฀-๿"}
_SCRIPTS_OF = {"ru": ("cyrillic",), "uk": ("cyrillic",), "bg": ("cyrillic",), "sr": ("cyrillic", "latin"), "ar": ("arabic",),
               "fa": ("arabic",), "ur": ("arabic",), "zh": ("han",), "ja": ("han", "kana"), "ko": ("hangul",), "el": ("greek",),
               "he": ("hebrew",), "hi": ("devanagari",), "bn": ("bengali",), "th": ("thai",)}
_LETTERS = {script: re.compile(f"[{letters}]") for script, letters in _RANGES.items()}
_LETTER = re.compile(r"[^\W\d_]")
_PROSE = 3
"""English words in lower case that a text has at least where it must be in the other script: names and formulas may stay."""

_LATIN_SHARE = 0.5
"""Most of the letters that may stay Latin in a text with prose."""


def scripts_of(language: str) -> tuple[str, ...]:
    """The scripts a language is written in."""
    return _SCRIPTS_OF.get(language, ("latin",))


def letters_of(text: str, script: str) -> int:
    """How many letters of a script a text has."""
    return len(_LETTERS[script].findall(text))


def wrong_script(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Texts that are not in the language's letters; Latin names and formulas inside them may be, and a text of such alone."""
    for name, text in translated.items():
        own = sum(letters_of(text, script) for script in scripts_of(language))
        if own == len(_LETTER.findall(text)):
            continue
        counts = {script: letters_of(text, script) for script in _RANGES if script not in scripts_of(language)}
        other, count = max(counts.items(), key=lambda item: item[1])
        prose = sum(word.islower() and len(word) > 2 for word in source[name].split())
        if other == "greek" and count <= 4 and count <= max(own, letters_of(source[name], other)):
            continue
        if other == "latin" and (prose < _PROSE if own else prose < 1 or _scientific(source[name])):
            continue
        if count > own * (_LATIN_SHARE / (1 - _LATIN_SHARE) if other == "latin" else 0.1):
            yield Reason("script", name, f"{count} letters are {other}, {own} {'/'.join(scripts_of(language))}: {text[:40]!r}")


def _scientific(text: str) -> bool:
    """A Latin name of two words (*Staphylococcus aureus*, *S. aureus*), which stays as it is in any language."""
    return bool(re.fullmatch(r"[A-Z](?:[a-z]+|\.) [a-z]+(?:us|is|um|ae|ii|i|a|ans|ens|es|os|on)", text.strip()))
