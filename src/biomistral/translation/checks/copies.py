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
        places = [place for place, word in enumerate(words) if word.lower() in english]
        if not places:
            continue
        stayed = " " + " ".join(_WORD.findall(source[name])).lower() + " "
        length = min(_RUN, max(2, len(words)))
        starts = {start for place in places for start in range(max(0, place - length + 1), min(place, len(words) - length) + 1)}
        runs = (" ".join(words[start:start + length]) for start in sorted(starts))
        run = next((run for run in runs if f" {run.lower()} " in stayed and not _is_name(run, english)), None)
        if run is not None:
            yield Reason("untranslated", name, f"{run!r} is the source's")


def _is_name(run: str, english: frozenset[str]) -> bool:
    """Whether all words but the small ones are in capitals, as in names of societies and scores."""
    large = [word for word in run.split() if word.lower() not in english]
    return len(large) > 1 and all(word[0].isupper() for word in large)
