"""All checks of an item together."""

from biomistral.translation.checks.copies import copied
from biomistral.translation.checks.damage import blanks, length, markup, refusals, repetition
from biomistral.translation.checks.languages import wrong_language
from biomistral.translation.checks.names import lost_names
from biomistral.translation.checks.negation import changed_negation
from biomistral.translation.checks.numbers import changed_numbers
from biomistral.translation.checks.returned import unlike
from biomistral.translation.checks.scripts import wrong_script
from biomistral.translation.checks.structure import duplicates, missing, swapped
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason


def find_faults(source: Fields, translated: Fields, language: str, back: Fields | None = None,
                source_language: str = "en") -> list[Reason]:
    """What is wrong with a translation into ``language`` (ISO 639-1); ``back``: translated back, by the same or another engine.

    An empty list is a sound item. Checks that a language does not allow (negation where its markers are not known) find nothing;
    negation and drugs are known of English sources alone.
    """
    if gone := list(missing(source, translated)):
        return gone
    found = [*duplicates(source, translated), *swapped(source, translated, back), *refusals(source, translated),
             *markup(source, translated), *blanks(source, translated), *repetition(source, translated),
             *length(source, translated, language), *wrong_script(source, translated, language),
             *wrong_language(source, translated, language), *changed_numbers(source, translated, language, source_language)]
    if source_language == "en":
        found += [*copied(source, translated, language), *lost_names(source, translated, language),
                  *changed_negation(source, translated, language)]
    if back is not None:
        found += unlike(source, back)
    return found
