"""What engines leave behind that is no translation: refusals, loops, markup, damaged blanks; texts that are too long or short."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from operator import eq
from pathlib import Path

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_MARKUP = re.compile(r"```|\*\*\S|</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:[a-z]{2,6}|#\d+);|^#{1,6} |\\u[0-9a-f]{4}|^\s*[\[{]\s*\"|"
                     r"\[/?INST\]|<\|[a-z_]+\|>", re.IGNORECASE | re.MULTILINE)
_BLANKS = re.compile(r"_{2,}|\{[^{}\n]{0,30}\}|\[(?:MASK|BLANK|UNK)\]|%[sd]\b|\$[^$\n]*[\\^_{}][^$\n]*\$|"
                     r"</?[A-Za-z][\w-]{0,15}/?>|�")
_NUMBERED = re.compile(r"^\s*(?:\(?[A-Z][).:]|[A-Z] -)\s")
_LOOPS = (re.compile(r"([一-鿿぀-ヿ฀-๿]{2,12}?)\1{4,}"), re.compile(r"([^\w\s]\s?)\1{9,}"))
_AGAIN, _LONGEST = 4, 6
"""How often a run of up to six words follows itself where an engine went round in a loop."""

_SHORT = 12
"""Characters below which the length of a text says nothing."""

_LENGTHS = {"zh": (0.08, 1.0), "ja": (0.12, 1.3), "ko": (0.15, 1.4), "ar": (0.35, 2.0), "he": (0.35, 1.9)}
_USUAL_LENGTHS = (0.4, 2.6)
_SLACK = 12
"""Characters that a text may be longer besides: abbreviations are written out."""


def refusals(source: Fields, translated: Fields) -> Iterator[Reason]:
    """An engine speaking of itself instead of translating."""
    for name, text in translated.items():
        plain = text.casefold().replace("’", "'")
        found = next((words for words in _refusals() if words in plain), None)
        if found and found not in source[name].casefold():
            yield Reason("refusal", name, f"{found.strip()!r} in {text[:60]!r}")


@cache
def _refusals() -> tuple[str, ...]:
    return tuple((Path(__file__).parent / "refusals.tsv").read_text(encoding="utf-8").split("\n")[1:-1])


def markup(source: Fields, translated: Fields) -> Iterator[Reason]:
    """Markdown, HTML, JSON or a letter before an option that the source has not."""
    for name, text in translated.items():
        if (found := _MARKUP.search(text)) and not _MARKUP.search(source[name]):
            yield Reason("markup", name, f"{found[0]!r} in {text[:60]!r}")
        elif len(name) == 1 and (found := _NUMBERED.match(text)) and not _NUMBERED.match(source[name]):
            yield Reason("markup", name, f"begins with a letter of its own, {found[0]!r}")


def blanks(source: Fields, translated: Fields) -> Iterator[Reason]:
    """Blanks, placeholders and formulas that are lost, damaged or new."""
    for name, text in translated.items():
        before, after = (Counter(_blank(one) for one in _BLANKS.findall(side)) for side in (source[name], text))
        if changed := [*(before - after), *(after - before)]:
            yield Reason("placeholder", name, f"{changed[0]!r} stands {before[changed[0]]} times in the source, "
                         f"{after[changed[0]]} in the translation")


def _blank(text: str) -> str:
    return "__" if set(text) == {"_"} else text


def repetition(source: Fields, translated: Fields) -> Iterator[Reason]:
    """Words or signs said again and again."""
    for name, text in translated.items():
        if (found := _loop(text)) and not _loop(source[name]):
            yield Reason("repetition", name, f"{found[:30]!r} again and again")


def _loop(text: str) -> str:
    """What a text says five times in a row: up to six words, in scripts without spaces up to twelve letters; or ten signs."""
    words = text.split()
    for count in range(1, _LONGEST + 1):
        same = bytes(map(eq, words, words[count:]))
        place = same.find(b"\1" * (_AGAIN * count))
        if place >= 0 and any(word.strip("._-") for word in words[place:place + count]):
            return " ".join(words[place:place + count])
    return next((match[1] for loop in _LOOPS if (match := loop.search(text)) and set(match[1]) - set(" ._-…·")), "")


def length(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Texts far longer or shorter than translations into the language are."""
    least, most = _LENGTHS.get(language, _USUAL_LENGTHS)
    for name, text in translated.items():
        before, after = len(source[name]), len(text)
        if before < _SHORT and after < 4 * _SHORT:
            continue
        if not before * least - 1 <= after <= before * most + _SLACK:
            yield Reason("length", name, f"{after} characters for {before} of the source (usual: {least:g} to {most:g} times)")
