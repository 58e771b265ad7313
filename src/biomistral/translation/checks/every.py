"""All checks of an item together."""

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason


def find_faults(source: Fields, translated: Fields, language: str, back: Fields | None = None,
                source_language: str = "en") -> list[Reason]:
    """What is wrong with a translation into ``language`` (ISO 639-1); ``back``: translated back, by the same or another engine.

    An empty list is a sound item. Checks that a language does not allow (negation where its markers are not known) find nothing.
    """
    return []
