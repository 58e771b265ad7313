"""Negation: lost or inserted, it turns a question round."""

import re
from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_STRONG = re.compile(r"\b(?:not|no|never|without|except|neither|nor|none|cannot|nobody|nothing)\b|n['’]t\b", re.IGNORECASE)
"""English that a translation negates too."""

_NO_NUMBER = re.compile(r"\b(?:no\.? ?\d|no\.? of\b|not only|no longer|if not|whether or not|"
                        r"no more than|not more than|not less than)", re.IGNORECASE)
"""Phrases that other languages may put without a negation."""

_BROAD = re.compile(
    r"\b(?:un(?!der|it|io|il|iq|iv|til)\w+|in(?:ab|ac|ade|app|com[pm]|corr|cons|def|dep|eff|expl|sign|suff|tol|vis|oper|freq|tact)\w+|"
    r"im(?:poss|mob|bal|prop|pair)\w+|ir(?:reg|rev|rel)\w+|non\w*|dis(?:app|ab|con|or)\w+|asymptom\w+|afebrile|atypical\w*|lack\w*|"
    r"absen\w+|fail\w*|den(?:y|ies|ied|ying)|refus\w+|unless|only|less|least|free|fewer|few|little|rather|rul(?:e|ed|ing) out|"
    r"exclu\w+|negative\w*|stop\w*|avoid\w*|loss|los[te]\w*|miss(?:ed|ing|es)?|hardly|rare\w*|otherwise|instead|contraind\w+|false|"
    r"incorrect\w*|wrong|prevent\w*|\w{3,}less|either|any|despite|spar(?:e|ed|ing)|discontinu\w+|with(?:draw|hold)\w*|"
    r"depriv\w+|empty|difficult\w*|no|but|barely|silent|independent\w*|at most|more|"
    r"definite\w*|safe\w*|over|above|up to|maxim\w+|minim\w+)\b", re.IGNORECASE)
"""English that a translation may negate."""

_MARKS = {
    "fr": (r"\b(?:ne|n['’]|pas|non|sans|sauf|excepté|jamais|aucune?|ni|hormis|rien|personne|à l['’]exception)",
           r"\b(?:pas|jamais|aucune?|sauf|sans)\b"),
    "de": (r"\b(?:nicht|kein\w*|ohne|außer|nie|niemals|weder|noch|nichts|un\w+|niemand|mit ausnahme|ausgenommen|nein)|"
           r"los(?:e|en|er|es)?\b",
           r"\b(?:nicht|kein\w*|ohne|außer|niemals|nie|weder)\b"),
    "es": (r"\b(?:no|nunca|jamás|sin|except[uúo]\w*|salvo|ni|ningun\w*|ningún|nada|nadie|tampoco|menos|negativ\w*|ausencia)\b",
           r"\b(?:no|sin|excepto|salvo)\b"),
    "pt": (r"\b(?:não|nunca|jamais|sem|exceto|excepto|salvo|nem|nenhum\w*|nada|ninguém|tampouco|menos|negativ\w*|ausência)\b",
           r"\b(?:não|sem|exceto|excepto)\b"),
    "it": (r"\b(?:non|no|mai|senza|eccetto|tranne|salvo|né|nessun\w*|niente|nulla|neanche|neppure|meno|assenza)\b",
           r"\b(?:non|senza|eccetto|tranne)\b"),
    "ru": (r"\b(?:не|ни|нет|нельзя|никогда|никак\w*|ничего|никто|без\w*|бес\w*|кроме|за исключением|исключая|отсутств\w*|"
           r"отрица\w*|не(?:воз|обыч|пра|дос|спо|норм|эфф|изв|тип|спец|знач|чув|пол|"
           r"ста|акт|дав|бол|корр|рег|зав|удач|верн|хват|подв|вер|обр)\w*)\b",
           r"\b(?:не|нет|без|кроме)\b"),
    "ar": (r"(?:\b(?:و|ف)?(?:لا(?! ?(?:ودي|هوائي|إرادي))|لم|لن|ليس\w*|غير|بدون|دون|ما عدا|عدا|باستثناء|إلا|سوى|عدم|أبدا|أبدًا|"
           r"أي من|بلا|ينفي|تنفي|خال)\b)",
           r"\b(?:و|ف)?(?:لا(?! ?(?:ودي|هوائي|إرادي|نوعي|عرضي))|لم|لن|ليس|ليست|بدون|باستثناء|ما عدا)\b"),
    "zh": (r"[不没無无未非否莫勿别]|除", r"[不没未](?!同|断|仅|全|良|足|适|稳|孕|清|安|整|明)|"
           r"除(?!了|以|法|去|术|外)|无(?!力|菌|关|症|痛|机)"),
}
_ANY, _CLEAR = ({language: re.compile(marks[which], re.IGNORECASE) for language, marks in _MARKS.items()} for which in (0, 1))


def changed_negation(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Negations of an English source that the translation has not, and clear ones that nothing in the source calls for.

    They are counted: languages negate in more words or fewer, so more than half of a text's have to be lost.
    """
    if language not in _MARKS:
        return
    for name, text in translated.items():
        here = _STRONG.findall(source[name])
        there, clear = len(_ANY[language].findall(text)), _CLEAR[language].findall(text)
        if there < len(here) / 2 and there < len(here := _STRONG.findall(_NO_NUMBER.sub(" ", source[name]))) / 2:
            yield Reason("negation", name, f"{here[0]!r} of the source is lost ({there} negations of {len(here)})")
        elif len(clear) > len(here) and len(clear) > len(here) + len(_BROAD.findall(source[name])):
            yield Reason("negation", name, f"{clear[0]!r} is not in the source: {text[:60]!r}")
