"""The licence of what was made from several works: the rule, what is not known, and what may not be handed on."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.cards.licences import OTHER, Part, forbidden, normal, stated, together

CASES = [
    (["Apache-2.0", "CC-BY-4.0", "CC0-1.0"], "cc-by-4.0", None),
    (["Apache-2.0", "PD-US-Gov"], "apache-2.0", None),
    (["mit", "Apache 2.0"], "apache-2.0", None),
    (["PD-US-Gov"], OTHER, "pd-us-gov"),
    (["CC-BY", "CC-BY-4.0"], "cc-by-4.0", None),
    (["CC-BY-3.0-IGO", "CC-BY-2.0"], "cc-by-3.0", None),
    (["CC-BY"], "cc", None),
    (["CC-BY-SA-4.0", "CC-BY-4.0", "MIT"], "cc-by-sa-4.0", None),
    (["CC-BY-SA-2.0"], OTHER, "cc-by-sa-2.0"),
    (["CC-BY-NC-4.0", "Apache-2.0"], "cc-by-nc-4.0", None),
    (["CC-BY-NC-ND-4.0", "CC-BY-ND-4.0"], "cc-by-nc-nd-4.0", None),
    (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], OTHER, "cc-by-sa-and-cc-by-nc"),
    (["gemma", "llama3"], OTHER, "gemma-and-llama3"),
    (["llama3", "CC-BY-4.0"], "llama3", None),
    (["gpl-3.0", "CC-BY-SA-4.0"], OTHER, "cc-by-sa-and-gpl-3.0"),
    (["Apache-2.0", "not stated"], OTHER, "unknown"),
    (["Apache-2.0", None], OTHER, "unknown"),
    (["Apache-2.0", "my own terms"], OTHER, "unknown"),
    ([], OTHER, "unknown"),
]


@pytest.mark.parametrize(("licences", "wanted", "name"), CASES)
def test_the_most_restrictive_in_any_order(licences: list[str | None], wanted: str, name: str | None) -> None:
    for order in permutations(licences):
        found = together([Part(f"work {number}", licence) for number, licence in enumerate(order)])
        assert (found.id, found.name) == (wanted, name)
        assert found.id != OTHER or found.sentence


def test_what_is_unknown_is_named() -> None:
    found = together([Part("the model base", None), Part("examples", "my own terms"), Part("texts", "CC-BY-4.0")])
    assert found.unknown == ("the licence of the model base", "the licence of examples ('my own terms')")
    assert found.sentence.startswith("Not known: the licence of the model base; the licence of examples ('my own terms').")


def test_what_counts_nothing_does_not_count() -> None:
    assert together([Part("texts", "CC-BY-4.0"), Part("texts", "unknown", 0), Part("texts", "CC-BY-NC-4.0", 0)]).id == "cc-by-4.0"


KNOWN = st.sampled_from(["Apache-2.0", "MIT", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "gemma"])


@given(st.lists(KNOWN, min_size=1), st.text(max_size=12).filter(lambda text: normal(text) is None))
def test_one_unknown_work_makes_the_whole_unknown(licences: list[str], odd: str) -> None:
    found = together([*(Part("work", licence) for licence in licences), Part("odd", odd)])
    assert (found.id, found.name) == (OTHER, "unknown")


@given(st.lists(KNOWN, min_size=1))
def test_a_licence_is_one_of_those_that_went_in_or_other(licences: list[str]) -> None:
    found = together([Part("work", licence) for licence in licences])
    assert found.id == OTHER or found.id in {licence.lower() for licence in licences}
    assert together([Part("work", licence) for licence in licences * 2]) == found


def test_stated_licences() -> None:
    assert stated("Apache 2.0").id == "apache-2.0"
    assert (stated("My Terms, 2026").id, stated("My Terms, 2026").name) == (OTHER, "my-terms-2026")
    assert stated("My Terms, 2026").sentence.startswith("My Terms, 2026: ")


def test_texts_that_may_not_be_handed_on() -> None:
    parts = [Part("model", None), Part("a", "CC-BY-ND-4.0", 2, text=True), Part("b", "CC-BY-NC-4.0", 2, text=True),
             Part("c", "unknown", 3, text=True), Part("d", "unknown", 0, text=True)]
    assert forbidden(parts) == ["a: CC-BY-ND-4.0 allows no altered copies, and a corpus alters its texts",
                                "the licence of c is not known"]
