"""The pure steps: words and n-grams, filters, duplicates, decontamination, code articles; against naive versions."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus import decontaminate, dedup, filters, language
from biomistral.corpus.code_articles import code_articles
from biomistral.corpus.pieces import split_words
from biomistral.corpus.shingles import ngrams, words_of
from biomistral.errors import UserError
from biomistral.records import Question

TEXTS = st.text(alphabet="abAB \n.,-\u00e9\u00c9\u4e2d\u6587\u0661\U0001f600", max_size=60)
SENTENCE = "the quick brown fox jumps over the lazy dog while seven small grey mice watch it from below the old oak tree"


def naive_words(text: str) -> list[str]:
    """Runs of letters and digits, folded; an ideograph alone."""
    return [word.lower() for word in re.findall(r"[\u4e00-\u9fff]|(?:(?![\u4e00-\u9fff])[^\W_])+", text)]


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_words_are_the_naive_ones(text: str) -> None:
    words = words_of(text)
    spans = [text[start:end].lower() for start, end in zip(words.starts, words.ends, strict=True)]
    assert spans == naive_words(text)
    by_hash = dict(zip(words.hashes.tolist(), spans, strict=True))
    assert len(by_hash) == len(set(spans))  # equal hashes if and only if equal words


@given(TEXTS, st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_ngrams_are_equal_where_the_words_are(text: str, size: int) -> None:
    names = naive_words(text)
    grams = ngrams(words_of(text).hashes, size).tolist()
    expected = [tuple(names[start:start + size]) for start in range(max(0, len(names) - size + 1))]
    assert len(grams) == len(expected)
    assert len(set(zip(grams, expected, strict=True))) == len(set(grams)) == len(set(expected))


def test_a_word_hashes_the_same_wherever_it_stands() -> None:
    one, two = words_of("Fever and cough"), words_of("much longer text before: COUGH, fever")
    assert one.hashes[0] == two.hashes[-1]
    assert one.hashes[2] == two.hashes[-2]


@given(st.text(alphabet="ab \n\u4e2d", max_size=80), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_pieces_hold_every_word_once(text: str, most: int) -> None:
    pieces = split_words(text, most)
    count = [len(re.findall(r"\u4e2d|[^\s\u4e2d]+", piece)) for piece in pieces]
    assert all(number == most for number in count[:-1])
    assert all(0 < number <= most for number in count)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


# ---- filters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "reason"), [
    (SENTENCE * 1, "too_short"),
    (f"{SENTENCE} and then some more words that make this long enough to be kept by every one of the filters here", None),
    (" ".join(f"{number}.{number}" for number in range(100)), "not_prose"),
    ("\n".join(f"{n}. Smith A, Jones B. A study of number {n}. J Test 2015;{n}:1-9." for n in range(1, 30)), "references"),
    (f"{SENTENCE}\n\n" * 10, "repetitive"),
])
def test_quality(text: str, reason: str | None) -> None:
    found = filters.quality(text, words_of(text), 30, 0.3)
    assert (found[0] if found else None) == reason


def test_language_tags() -> None:
    assert [language.normal(tag) for tag in ("pt-BR", "EN", "eng", "zh_Hans", "", None, "x", "12")] == [
        "pt", "en", "en", "zh", "und", "und", "und", "und"]
    assert language.language_of("fr-FR", "The text is not looked at.", detect=False) == "fr"


@pytest.mark.skipif(not language.can_detect(), reason="the extra 'language' is not installed")
def test_detected_language_overrules_a_wrong_declaration() -> None:
    spanish = "Los pacientes con diabetes mellitus tipo 2 fueron evaluados durante el estudio cl\u00ednico en el hospital. " * 3
    assert language.language_of("en", spanish, detect=True) == "es"
    assert language.language_of("und", spanish, detect=True) == "es"
    assert language.language_of("de", "123", detect=True) == "de"


# ---- duplicates -----------------------------------------------------------------------------------------------------


def jaccard(one: str, two: str, size: int = 5) -> float:
    def sets(text: str) -> set[tuple[str, ...]]:
        names = naive_words(text)
        return {tuple(names[start:start + size]) for start in range(len(names) - size + 1)}
    return len(sets(one) & sets(two)) / len(sets(one) | sets(two))


def test_signatures_estimate_jaccard() -> None:
    generator = np.random.default_rng(0)
    base = [f"w{number}" for number in generator.integers(0, 5000, 2000)]
    for changed in (5, 40, 100):
        other = list(base)
        for place in generator.choice(len(base), changed, replace=False):
            other[place] = "changed"
        one, two = " ".join(base), " ".join(other)
        signed = dedup.signatures([words_of(one), words_of(two)], seed=1)
        assert float((signed[0] == signed[1]).mean()) == pytest.approx(jaccard(one, two), abs=0.12)  # 3 sigma of 128 hashes


def test_near_copies_keep_the_best_and_do_not_chain() -> None:
    generator = np.random.default_rng(1)
    base = [f"w{number}" for number in generator.integers(0, 10**6, 1000)]
    texts = [" ".join(base), " ".join([*base[:990], *"abcdefghij"]), " ".join(f"v{number}" for number in range(1000))]
    signed = dedup.signatures([words_of(text) for text in texts], seed=1)
    found = dedup.near_copies(signed, np.array([1, 0, 2]), 0.8)
    assert list(found) == [0]
    assert found[0][0] == 1
    assert dedup.near_copies(signed, np.array([0, 1, 2]), 0.999) == {}


def test_exact_copies_ignore_case_and_punctuation() -> None:
    digests = [dedup.digest(words_of(text)) for text in ("Fever, cough.", "fever COUGH", "fever", "pain")]
    found = dedup.copies(["a", "b", "c", "c"], digests, np.array([1, 0, 2, 3]))
    assert found == {0: ("duplicate", 1), 3: ("duplicate_id", 2)}


# ---- decontamination ------------------------------------------------------------------------------------------------


def question(identifier: str, stem: str, options: tuple[str, ...] = ("yes", "no"), context: str | None = None) -> Question:
    return Question(id=identifier, task="t", stem=stem, options=options, answer="A", context=context)


def find(text: str, questions: list[Question], fields: tuple[str, ...] = ("stem", "option")) -> list[tuple[str, str, str]]:
    index = decontaminate.build_index(questions, fields, 13, 5)
    return [(match.question, match.field, decontaminate.span(text, match)) for match in index.matches(text, words_of(text))]


def test_thirteen_words_of_overlap() -> None:
    asked = question("q", f"Before. {SENTENCE}?")
    thirteen, twelve = " ".join(SENTENCE.split()[2:15]), " ".join(SENTENCE.split()[2:14])
    assert find(f"Intro. {thirteen.upper()}, end.", [asked]) == [("q", "stem", thirteen.upper())]
    assert find(f"Intro. {twelve}, end.", [asked]) == []
    assert find(f"A {SENTENCE} B", [asked]) == [("q", "stem", SENTENCE)]


def test_short_parts_match_as_a_whole_and_very_short_ones_never() -> None:
    asked = question("q", "Which vitamin is lacking in scurvy?", ("vitamin C", "a diet of salted meat and ship biscuit"))
    found = find("Q: which vitamin is lacking in scurvy? Vitamin C.", [asked])
    assert found == [("q", "stem", "which vitamin is lacking in scurvy")]
    assert find("Which vitamin is lacking in beriberi?", [asked]) == []
    assert [field for _, field, _ in find("He had a diet of salted meat and ship biscuit.", [asked])] == ["option"]
    assert find("He had a diet of salted meat and ship biscuit.", [asked], fields=("stem",)) == []


@given(st.lists(st.sampled_from("abcd"), min_size=5, max_size=30), st.lists(st.sampled_from("abcd"), max_size=60))
@settings(max_examples=100, deadline=None)
def test_matches_are_the_naive_ones(asked: list[str], text: list[str]) -> None:
    size = min(13, len(asked))
    grams = {tuple(asked[start:start + size]) for start in range(len(asked) - size + 1)}
    expected = any(tuple(text[start:start + size]) in grams for start in range(len(text) - size + 1))
    assert bool(find(" ".join(text), [question("q", " ".join(asked))])) == expected


def test_cut_removes_the_paragraph_only() -> None:
    text = f"First paragraph.\n\nBefore. {SENTENCE}. After.\n\nLast paragraph."
    index = decontaminate.build_index([question("q", SENTENCE)], ("stem",), 13, 5)
    assert decontaminate.cut(text, index.matches(text, words_of(text))) == "First paragraph.\n\nLast paragraph."


# ---- code articles --------------------------------------------------------------------------------------------------

CODES = """code,parent_code,name
E08-E13,,Diabetes mellitus
E11,E08-E13,Type 2 diabetes mellitus
E11.0,E11,Type 2 diabetes mellitus with hyperosmolarity
E11.9,E11,Type 2 diabetes mellitus without complications
I10,,Essential (primary) hypertension
"""


def test_code_articles_tell_every_code_both_ways(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text(CODES)
    found = list(code_articles("ICD10CM", tmp_path / "codes.csv", None, 3, 0))
    assert [article.id for article in found] == [
        "ICD10CM:E11", "ICD10CM:E11/2", "ICD10CM:E11/3", "ICD10CM:I10", "ICD10CM:I10/2", "ICD10CM:I10/3"]
    assert len({article.text for article in found}) == 6
    for code, name in (("E11.0", "Type 2 diabetes mellitus with hyperosmolarity"),
                       ("E11.9", "Type 2 diabetes mellitus without complications")):
        facts = [next(block for block in article.text.split("\n\n") if code in block) for article in found[:3]]
        assert [fact.count(name) for fact in facts] == [1, 1, 1]  # a second time would be learnt by copying the first
        assert sorted(fact.index(code) < fact.index(name) for fact in facts) == [False, True, True]
    for article in found:
        assert "What is the description of the medical code" not in article.text
    assert found == list(code_articles("ICD10CM", tmp_path / "codes.csv", None, 3, 0))


def test_code_articles_only_for_what_is_taught(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text(CODES)
    (tmp_path / "taught.json").write_text('{"vocabulary": "ICD10CM", "categories": ["I10"], "codes": ["I10"]}')
    assert [article.id for article in code_articles("ICD10CM", tmp_path / "codes.csv", tmp_path, 1, 0)] == ["ICD10CM:I10"]
    (tmp_path / "taught.json").write_text('{"vocabulary": "ICD10CM", "categories": ["Z99"], "codes": []}')
    with pytest.raises(UserError, match="category Z99 is not in"):
        list(code_articles("ICD10CM", tmp_path / "codes.csv", tmp_path, 1, 0))
    (tmp_path / "taught.json").write_text('{"vocabulary": "ICD9CM", "categories": [], "codes": []}')
    with pytest.raises(UserError, match="teaches ICD9CM"):
        list(code_articles("ICD10CM", tmp_path / "codes.csv", tmp_path, 1, 0))
