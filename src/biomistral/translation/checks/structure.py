"""Texts that are missing, empty, or the same where the source's are not; options that changed places."""

from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_ALIKE_BACK, _ALIKE = 0.3, 0.7
"""By how much more two options must look like each other's sources than like their own (0 to 2) to have changed places: by the
translation back, and by the translation itself."""


def options_of(fields: Fields) -> Fields:
    """The options alone."""
    return {name: text for name, text in fields.items() if len(name) == 1}


def missing(source: Fields, translated: Fields) -> Iterator[Reason]:
    """Texts that are not there, are empty, or are not in the source."""
    for name in source:
        if name not in translated:
            yield Reason("missing", name, "is not in the translation")
        elif not any(letter.isalnum() for letter in translated[name]) and any(letter.isalnum() for letter in source[name]):
            yield Reason("empty", name, f"{translated[name]!r} holds neither letter nor digit")
    for name in translated.keys() - source.keys():
        yield Reason("missing", name, "is not in the source")


def duplicates(source: Fields, translated: Fields) -> Iterator[Reason]:
    """Options that became the same: two right answers, or none."""
    said, before = options_of(translated), options_of(source)
    seen: dict[str, str] = {}
    for name, text in said.items():
        plain = _plain(text)
        twin = seen.setdefault(plain, name)
        if twin != name and _plain(before[twin]) != _plain(before[name]):
            yield Reason("duplicate", name, f"the same as option {twin}: {text[:60]!r}")


def swapped(source: Fields, translated: Fields, back: Fields | None) -> Iterator[Reason]:
    """Options that changed places, seen in the translation back, else in words that look alike in both languages."""
    before, after = options_of(source), options_of(back or translated)
    names = list(before)
    if len(names) < 2 or before.keys() != after.keys():
        return
    here, there = ({name: _pairs(text) for name, text in side.items()} for side in (before, after))
    for place, name in enumerate(names):
        for other in names[place + 1:]:
            own = _likeness(here[name], there[name]) + _likeness(here[other], there[other])
            crossed = _likeness(here[name], there[other]) + _likeness(here[other], there[name])
            if crossed > own + (_ALIKE if back is None else _ALIKE_BACK):
                yield Reason("order", name, f"looks like the source's option {other}, and {other} like {name}: "
                             f"{translated[name][:40]!r}")


def _pairs(text: str) -> frozenset[str]:
    """The pairs of neighbouring characters of a text."""
    plain = f" {_plain(text)[:200]} "
    return frozenset(plain[place:place + 2] for place in range(len(plain) - 1))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """How alike two texts look, 0 to 1 (Dice)."""
    return 2 * len(one & other) / (len(one) + len(other))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .。")
