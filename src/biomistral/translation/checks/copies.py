"""Texts that were not translated."""

import re
from collections.abc import Iterator

from biomistral.translation.checks.languages import FUNCTION_WORDS
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_MORE = """or but its their after before during between into than these those when where does can may should have increased
decreased treatment patient"""
_ENGLISH = frozenset(f"{FUNCTION_WORDS['en']} {_MORE}".split())
_OWN = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
_RUN = 5
"""Words in a row, as in the source, that are no coincidence if one of them is a small word of English."""


def copied(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """English that stayed. Names, formulas and words alike in both languages may stay: they have no small words of English."""
    english = _ENGLISH - _OWN.get(language, frozenset())
    for name, text in translated.items():
        words = _WORD.findall(text)
        stayed = " " + " ".join(_WORD.findall(source[name])).lower() + " "
        for place in range(len(words) - min(_RUN, max(2, len(words))) + 1):
            run = [word.lower() for word in words[place:place + _RUN]]
            if len(run) >= 2 and any(word in english for word in run) and f" {' '.join(run)} " in stayed:
                yield Reason("untranslated", name, f"{' '.join(words[place:place + _RUN])!r} is the source's")
                break
