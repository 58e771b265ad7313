"""What engines leave behind that is no translation: refusals, loops, markup, damaged blanks; texts that are too long or short."""

import re
from collections import Counter
from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_REFUSALS = re.compile(
    r"as an ai\b|\bai (?:language )?model\b|language model|i(?:'|’| a)m sorry|i cannot (?:translate|provide|assist)|"
    r"i can(?:'|’)t (?:translate|provide|assist)|here is the translation|translation:|en tant qu(?:e modèle|'ia|’ia)|"
    r"modèle de langage|je suis désolé|voici la traduction|als ki\b|sprachmodell|es tut mir leid|hier ist die übersetzung|"
    r"como (?:una )?ia\b|como (?:um )?modelo de|modelo de lengua(?:je)?|modelo de linguagem|lo siento|sinto muito|desculpe|"
    r"aquí (?:está|tienes) la traducción|aqui está a tradução|modello linguistico|mi dispiace|ecco la traduzione|"
    r"языковая модель|как ии\b|к сожалению, я|извините|вот перевод|نموذج لغوي|كنموذج|بصفتي|عذر[اً]|آسف|"
    r"إليك الترجمة|作为(?:一个|一款)?(?:ai|人工智能)|语言模型|抱歉|对不起|以下是(?:翻译|译文)|言語モデル|申し訳", re.IGNORECASE)
_MARKUP = re.compile(r"```|\*\*\S|</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:[a-z]{2,6}|#\d+);|^#{1,6} |\\u[0-9a-f]{4}|^\s*[\[{]\s*\"|"
                     r"\[/?INST\]|<\|[a-z_]+\|>", re.IGNORECASE | re.MULTILINE)
_BLANKS = re.compile(r"_{2,}|\{[^{}\n]{0,30}\}|\[(?:MASK|BLANK|UNK)\]|%[sd]\b|\$[^$\n]+\$|<[^<>\n]{1,30}>|�")
_NUMBERED = re.compile(r"^\s*(?:\(?[A-Z][).:]|[A-Z] -)\s")
_LOOP = re.compile(r"(.{1,40}?)\1{4,}", re.DOTALL)
_SHORT = 12
"""Characters below which the length of a text says nothing."""

_LENGTHS = {"zh": (0.08, 1.0), "ja": (0.12, 1.3), "ko": (0.15, 1.4), "ar": (0.35, 2.0), "he": (0.35, 1.9)}
_USUAL_LENGTHS = (0.4, 2.6)
_SLACK = 12
"""Characters that a text may be longer besides: abbreviations are written out."""


def refusals(source: Fields, translated: Fields) -> Iterator[Reason]:
    """An engine speaking of itself instead of translating."""
    for name, text in translated.items():
        if (found := _REFUSALS.search(text)) and not _REFUSALS.search(source[name]):
            yield Reason("refusal", name, f"{found[0]!r} in {text[:60]!r}")


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
    """Words said five times in a row."""
    for name, text in translated.items():
        found = _LOOP.search(text)
        if found and len(found[0].strip(" ._-…·")) > 7 and not _LOOP.search(source[name]):
            yield Reason("repetition", name, f"{found[1][:30]!r} again and again")


def length(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Texts far longer or shorter than translations into the language are."""
    least, most = _LENGTHS.get(language, _USUAL_LENGTHS)
    for name, text in translated.items():
        before, after = len(source[name]), len(text)
        if before < _SHORT and after < 4 * _SHORT:
            continue
        if not before * least - 1 <= after <= before * most + _SLACK:
            yield Reason("length", name, f"{after} characters for {before} of the source (usual: {least:g} to {most:g} times)")
