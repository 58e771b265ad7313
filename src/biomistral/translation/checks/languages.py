"""Whether a translation is in its language, by the small words that make up half of any text."""

import re
from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

FUNCTION_WORDS = {
    "en": "the of and in to is was with for that which by are from as this an be has on at not were his her following most "
          "likely who what would had she he been",
    "fr": "le la les des et est dans une un du que qui pour avec par sur au aux ce cette son sa plus ne pas sont quel quelle "
          "suivants suivantes il elle ses ou été lequel laquelle chez",
    "de": "der die das und ist in den von mit ein eine einer eines zu dem des für auf nicht welche welcher welches bei im wird "
          "sind als durch folgenden er sie an aus nach einem",
    "es": "a o e el la los las de y en un una que es del con por para se al lo su como más cuál siguientes no este esta qué ha "
          "fue son presenta cual ella él le",
    "pt": "o a os as de e em ou às aos pela pelo "
          "um uma que é do da dos das com por para se ao na no nos nas seu sua como mais qual seguintes não "
          "este esta foi são uma ele ela",
    "it": "il lo la i gli le di e è in un una che del della dei delle con per si al nel nella da come più quale seguenti non "
          "questo questa sono ha alla",
    "nl": "de het een van en is in op met voor dat die niet zijn door bij aan te wordt welke als naar werd heeft",
    "pl": "w i z na się jest do nie że o po przez dla od jak który która które oraz są lub ze",
    "ro": "și în de la cu este un o care pe din nu pentru sunt mai al ale cel cea prin sau dintre",
}
_SETS = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_FEWEST = 6
"""Words of a text that can be judged: in fewer, one name decides."""

_FEWEST_KNOWN = 2
"""Words of the other language alone, of two letters and more, that are no coincidence: "dos" (2) is Portuguese too."""

_MARGIN = 0.1
"""By how much a larger share of its words another language must have: neighbours (es, pt, it) share a third of theirs."""


def share(text: str, language: str) -> float:
    """The share of a text's words that are function words of a language."""
    words = _WORD.findall(text.lower())
    return sum(word in _SETS[language] for word in words) / max(1, len(words))


def wrong_language(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Texts of six words and more that read as another language. Of languages in scripts of their own `scripts` tells."""
    if language not in _SETS:
        return
    for name, text in translated.items():
        words = _WORD.findall(text.lower())
        if len(words) < _FEWEST:
            continue
        shares = {other: sum(word in known for word in words) / len(words) for other, known in _SETS.items()}
        likeliest = max(shares, key=lambda other: shares[other])
        alone = {word for word in words if len(word) > 1 and word in _SETS[likeliest] - _SETS[language]}
        if shares[likeliest] > shares[language] + _MARGIN and len(alone) >= _FEWEST_KNOWN:
            yield Reason("language", name, f"reads as '{likeliest}', not '{language}': {text[:60]!r}")
