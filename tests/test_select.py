"""Selection over a ledger's arrays: budgets against a naive loop, the paper's order, mixes, shares, and orders made by ids."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.choosing.fill import Limits, fill
from biomistral.corpus.choosing.select import achieved, choose_heldout, order_keys, select
from biomistral.corpus.settings import CorpusSettings

Array = npt.NDArray[Any]


@dataclass
class Shelf:
    """What selection reads of a ledger."""

    names: list[str]
    tokens: Array
    source_index: Array
    languages: list[str]
    language_code: Array
    ours: Array
    reasons: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def kept(self) -> Array:
        return np.array([index for index in range(len(self)) if index not in self.reasons], np.int64)

    def ids(self, indices: Array) -> list[str]:
        return [self.names[index] for index in indices.tolist()]

    def refuse(self, indices: Array, reason: str) -> None:
        self.reasons.update(dict.fromkeys(indices.tolist(), reason))


def shelf(documents: list[tuple[str, int, str, int]], ours: int | None = None) -> Shelf:
    """From (id, tokens, language, source); ``ours`` is the source of code articles."""
    languages = sorted({language for _, _, language, _ in documents})
    sources = np.array([source for *_, source in documents], np.int16)
    return Shelf(
        [name for name, *_ in documents], np.array([tokens for _, tokens, *_ in documents], np.int32), sources, languages,
        np.array([languages.index(language) for _, _, language, _ in documents], np.int16),
        sources == ours if ours is not None else np.zeros(len(documents), np.bool_))


def asked(sources: int | list[dict[str, Any]] = 1, **changed: Any) -> CorpusSettings:
    listed = [{"input": f"s{number}"} for number in range(sources)] if isinstance(sources, int) else [
        {"input": f"s{number}", **source} for number, source in enumerate(sources)]
    return CorpusSettings.model_validate({"sources": listed, "tokenizer": "t", "heldout": 0.0, **changed})


def chosen(ledger: Shelf, wanted: CorpusSettings) -> list[int]:
    keys = order_keys(ledger, wanted.seed)  # type: ignore[arg-type]
    found = select(ledger, keys, np.zeros(len(ledger), np.bool_), wanted).tolist()  # type: ignore[arg-type]
    assert found == sorted(found, key=lambda index: int(keys[index]))
    assert set(ledger.reasons) == set(range(len(ledger))) - set(found)
    assert set(ledger.reasons.values()) <= {"over_budget"}
    return found


def many(count: int = 3000, seed: int = 0, shares: dict[str, float] | None = None, sources: int = 1) -> Shelf:
    generator = np.random.default_rng(seed)
    mix = shares or {"en": 0.9, "fr": 0.06, "es": 0.04}
    languages = generator.choice(list(mix), count, p=list(mix.values()))
    return shelf([(f"PMC{seed}{number}", int(generator.integers(100, 1000)), str(languages[number]), number % sources)
                  for number in range(count)])


def tokens_of(ledger: Shelf, found: list[int], language: str | None = None) -> int:
    return sum(int(ledger.tokens[index]) for index in found
               if language is None or ledger.languages[ledger.language_code[index]] == language)


# ---- filling ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2), st.integers(0, 1)), max_size=25), st.integers(0, 60),
       st.lists(st.one_of(st.integers(0, 20), st.just(math.inf)), min_size=3, max_size=3),
       st.lists(st.one_of(st.integers(0, 20), st.just(math.inf)), min_size=2, max_size=2))
@settings(max_examples=300, deadline=None)
def test_filling_is_one_look_at_each_in_turn(documents: list[tuple[int, int, int]], room: float, first: list[float],
                                             second: list[float]) -> None:
    tokens = np.array([size for size, *_ in documents], np.int32)
    classes = [np.array([document[place] for document in documents], np.int64) for place in (1, 2)]
    rooms = [np.array(first, float), np.array(second, float)]
    found = fill(np.arange(len(documents)), tokens, Limits(room, classes, [each.copy() for each in rooms]))
    expected = []
    for index, (size, one, two) in enumerate(documents):
        if size <= min(room, rooms[0][one], rooms[1][two]):
            expected.append(index)
            room, rooms[0][one], rooms[1][two] = room - size, rooms[0][one] - size, rooms[1][two] - size
    assert found.tolist() == expected


# ---- order ----------------------------------------------------------------------------------------------------------------


def test_keys_are_made_of_seed_and_id_alone() -> None:
    names = ["PMC1", "PMC10", "PMC100000000000000000000", "10.1371/journal.pone.0000001", "é中\U0001f600", "", "x" * 300]
    together = order_keys(shelf([(name, 1, "en", 0) for name in names]), 7)  # type: ignore[arg-type]
    for place, name in enumerate(names):
        alone = order_keys(shelf([(name, 1, "en", 0)]), 7)  # type: ignore[arg-type]
        assert alone[0] == together[place]
    assert len(set(together.tolist())) == len(names)
    assert set(together) & set(order_keys(shelf([(name, 1, "en", 0) for name in names]), 8)) == set()  # type: ignore[arg-type]


def test_keys_are_uniform() -> None:
    keys = order_keys(shelf([(f"PMC{number}", 1, "en", 0) for number in range(20_000)]), 0)  # type: ignore[arg-type]
    assert len(set(keys.tolist())) == 20_000
    for shift in (0, 20, 40, 58):
        counts = np.bincount((keys >> np.uint64(shift)).astype(np.uint64) & np.uint64(63), minlength=64)
        assert ((counts - 312.5) ** 2 / 312.5).sum() < 120  # chi squared, 63 degrees of freedom: 1 in 100,000


def test_order_does_not_depend_on_how_sources_are_cut_into_files() -> None:
    one, wanted = many(), asked(max_tokens=100_000)
    shuffled = np.random.default_rng(5).permutation(len(one)).tolist()
    other = Shelf([one.names[i] for i in shuffled], one.tokens[shuffled], one.source_index[shuffled], one.languages,
                  one.language_code[shuffled], one.ours[shuffled])
    assert [one.names[i] for i in chosen(one, wanted)] == [other.names[i] for i in chosen(other, wanted)]


# ---- held out -------------------------------------------------------------------------------------------------------------


def test_heldout_is_drawn_from_ids_and_stays_when_the_corpus_grows() -> None:
    wanted = asked(heldout=0.1)
    small, large = many(500), many(3000)
    first = choose_heldout(small, wanted)  # type: ignore[arg-type]
    second = choose_heldout(large, wanted)  # type: ignore[arg-type]
    assert small.names == large.names[:500] or set(small.ids(np.flatnonzero(first))) <= set(small.names)
    by_name = dict(zip(large.names, second.tolist(), strict=True))
    assert [by_name[name] for name in small.names] == first.tolist()
    assert 240 < second.sum() < 360


def test_at_least_one_article_is_held_out_and_no_code_article() -> None:
    two = shelf([("a", 1, "en", 0), ("b", 1, "en", 0), ("c", 1, "en", 1)], ours=1)
    assert choose_heldout(two, asked(2, heldout=1e-9)).sum() == 1  # type: ignore[arg-type]
    assert not choose_heldout(two, asked(2, heldout=0.999))[2]  # type: ignore[arg-type]
    assert not choose_heldout(two, asked(2)).any()  # type: ignore[arg-type]
    assert not choose_heldout(shelf([("a", 1, "en", 0)]), asked(heldout=0.5)).any()  # type: ignore[arg-type]


# ---- the paper's selection ------------------------------------------------------------------------------------------------


def test_without_a_budget_all_is_taken() -> None:
    ledger = many(100)
    assert len(chosen(ledger, asked())) == 100


def test_code_articles_then_other_languages_then_english() -> None:
    documents = [(f"e{n}", 100, "en", 0) for n in range(50)] + [(f"f{n}", 100, "fr", 0) for n in range(10)]
    documents += [(f"u{n}", 100, "und", 0) for n in range(3)] + [(f"c{n}", 100, "en", 1) for n in range(5)]
    for budget, expected in ((300, {"c": 3}), (700, {"c": 5, "f": 2}), (1600, {"c": 5, "f": 10}), (2000, {"c": 5, "f": 10})):
        ledger = shelf(documents, ours=1)
        found = Counter(ledger.names[index][0] for index in chosen(ledger, asked(2, max_tokens=budget)))
        english = found.pop("e", 0) + found.pop("u", 0)  # a language that is not known counts with English
        assert found == expected
        assert english + found.total() == budget // 100


def test_what_does_not_fit_is_passed_over_and_the_budget_is_never_passed() -> None:
    ledger = shelf([("large", 1000, "fr", 0), ("small", 10, "en", 0)])
    assert [ledger.names[index] for index in chosen(ledger, asked(max_tokens=50))] == ["small"]
    ledger = many()
    found = chosen(ledger, asked(max_tokens=123_456))
    assert 123_456 - 100 < tokens_of(ledger, found) <= 123_456  # the smallest document has 100 tokens
    assert tokens_of(ledger, found, "en") == 0  # other languages have more than that


def test_budgets_of_sources() -> None:
    ledger = many(sources=3)
    found = chosen(ledger, asked([{"max_tokens": 50_000}, {}, {"max_tokens": 7}], max_tokens=400_000))
    taken = np.bincount(ledger.source_index[found], ledger.tokens[found], 3)
    assert 49_900 < taken[0] <= 50_000
    assert taken[2] == 0
    assert 399_900 < taken.sum() <= 400_000


# ---- a mix of languages -----------------------------------------------------------------------------------------------------


def test_a_mix_has_its_shares() -> None:
    ledger = many(20_000)
    wanted = asked(max_tokens=1_000_000, mix={"fr": 0.1, "es": 0.2, "en": 0.7})
    found = chosen(ledger, wanted)
    for language, share in wanted.mix.items():
        assert tokens_of(ledger, found, language) == pytest.approx(share * 1_000_000, abs=200)
    account = achieved(ledger, np.array(found), wanted)  # type: ignore[arg-type]
    assert account["mix"]["fr"]["asked"] == 0.1
    assert account["mix"]["fr"]["share"] == pytest.approx(0.1, abs=0.001)
    assert account["tokens"] == tokens_of(ledger, found)
    assert list(account["languages"]) == ["en", "es", "fr"]


def test_what_a_short_language_cannot_fill_goes_to_the_others_in_proportion() -> None:
    ledger = many(20_000)
    french = tokens_of(ledger, list(range(len(ledger))), "fr")
    found = chosen(ledger, asked(max_tokens=2_000_000, mix={"fr": 0.5, "de": 0.1, "es": 0.1, "en": 0.3}))
    assert tokens_of(ledger, found, "fr") == french  # 0.66 million instead of 1
    left = 2_000_000 - french
    assert tokens_of(ledger, found, "es") == pytest.approx(left * 0.25, rel=0.06)  # 0.1 of 0.4
    assert tokens_of(ledger, found) == pytest.approx(2_000_000, abs=200)


def test_what_a_mix_leaves_over_is_for_languages_it_does_not_name() -> None:
    ledger = many(20_000)
    found = chosen(ledger, asked(max_tokens=1_000_000, mix={"en": 0.8}))
    others = tokens_of(ledger, found, "fr") + tokens_of(ledger, found, "es")
    assert others == pytest.approx(200_000, abs=200)
    only = many(20_000)
    found = chosen(only, asked(max_tokens=1_000_000, mix={"en": 1.0}))
    assert {only.languages[code] for code in only.language_code[found]} == {"en"}
    account = achieved(only, np.array(found), asked(max_tokens=1_000_000, mix={"en": 0.8}))  # type: ignore[arg-type]
    assert account["mix"]["other"] == {"documents": 0, "tokens": 0, "share": 0.0, "asked": 0.2}


def test_code_articles_come_before_a_mix() -> None:
    documents = [(f"c{n}", 100, "en", 1) for n in range(10)] + [(f"e{n}", 100, "en", 0) for n in range(50)]
    documents += [(f"f{n}", 100, "fr", 0) for n in range(50)]
    ledger = shelf(documents, ours=1)
    found = chosen(ledger, asked(2, max_tokens=3000, mix={"fr": 0.5, "en": 0.5}))
    assert sorted(ledger.names[index][0] for index in found) == ["c"] * 10 + ["e"] * 10 + ["f"] * 10


def test_a_mix_with_too_few_documents_takes_all() -> None:
    ledger = many(200)
    assert len(chosen(ledger, asked(max_tokens=10_000_000, mix={"fr": 0.2, "en": 0.8}))) == 200 - sum(
        ledger.languages[code] == "es" for code in ledger.language_code)


# ---- shares of sources ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 800_000])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_a_replayed_source_has_its_share_of_all_training_tokens(budget: int | None, share: float) -> None:
    ledger = many(5000, sources=2)
    wanted = asked([{}, {"share": share, "name": "general"}], max_tokens=budget)
    found = chosen(ledger, wanted)
    taken = np.bincount(ledger.source_index[found], ledger.tokens[found], 2)
    assert taken[1] / taken.sum() == pytest.approx(share, abs=100 / taken.sum() + 0.0005)
    if budget is not None:
        assert budget - 300 < taken.sum() <= budget
    else:
        assert taken[0] == ledger.tokens[ledger.source_index == 0].sum()
    account = achieved(ledger, np.array(found), wanted)  # type: ignore[arg-type]
    assert account["sources"]["general"]["asked"] == share
    assert account["sources"]["general"]["share"] == pytest.approx(share, abs=0.001)


def test_a_replayed_source_that_runs_short_leaves_its_room_to_the_others() -> None:
    ledger = many(5000, sources=2)
    ledger.source_index[100:] = 0
    found = chosen(ledger, asked([{}, {"share": 0.5}], max_tokens=1_000_000))
    taken = np.bincount(ledger.source_index[found], ledger.tokens[found], 2)
    assert taken[1] == ledger.tokens[ledger.source_index == 1].sum()
    assert 999_800 < taken.sum() <= 1_000_000


def test_shares_are_of_what_there_is_where_the_others_run_short() -> None:
    ledger = many(5000, sources=2)
    ledger.source_index[100:] = 1
    found = chosen(ledger, asked([{}, {"share": 0.2}], max_tokens=10_000_000))
    taken = np.bincount(ledger.source_index[found], ledger.tokens[found], 2)
    assert taken[1] / taken.sum() == pytest.approx(0.2, abs=0.005)


def test_every_source_has_a_share() -> None:
    ledger = many(5000, sources=2)
    ledger.source_index[500:] = 1
    for budget in (None, 50_000):
        ledger.reasons.clear()
        found = chosen(ledger, asked([{"share": 0.75}, {"share": 0.25}], max_tokens=budget))
        taken = np.bincount(ledger.source_index[found], ledger.tokens[found], 2)
        assert taken[0] / taken.sum() == pytest.approx(0.75, abs=0.01)
        if budget is None:
            assert taken[0] == ledger.tokens[ledger.source_index == 0].sum()


@pytest.mark.parametrize(("sources", "changed", "message"), [
    ([{"share": 0.5}], {}, "they must sum to 1, not 0.5"),
    ([{"share": 0.7}, {"share": 0.5}], {}, "they must sum to 1, not 1.2"),
    ([{"share": 1.0}, {}], {}, "leaves nothing for sources without one"),
    ([{}], {"mix": {"fr": 0.5}}, "shares of 'max_tokens', which is not set"),
    ([{}], {"mix": {"fr": 0.5, "en": 0.6}, "max_tokens": 10}, "sum to 1.1, more than 1"),
    ([{}], {"mix": {"French": 0.5}, "max_tokens": 10}, "mix.French"),
])
def test_settings_that_cannot_be_met(sources: list[dict[str, Any]], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(sources, **changed)
