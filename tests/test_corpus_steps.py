"""The pure steps: words and n-grams, pieces, code articles; against naive versions."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.cleaning.shingles import ngrams, words_of
from biomistral.corpus.sources.code_articles import code_articles
from biomistral.errors import UserError

TEXTS = st.text(alphabet="abAB \n.,-\u00e9\u00c9\u4e2d\u6587\u0661\U0001f600", max_size=60)


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
