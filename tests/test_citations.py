"""Citation marks leave no holes: every style met in real articles, and laws over generated ones."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.articles.citations import END, NAME, NUMBER, RAISED, marked, without_citations


def marks(text: str) -> str:
    """``{3}`` a number, ``{Lee 2010}`` a name, ``{^3}`` a superscript."""
    def mark(match: re.Match[str]) -> str:
        said = match[1]
        return (RAISED if said[0] == "^" else NAME if re.search("[A-Za-z]{2}", said) else NUMBER) + said.lstrip("^") + END
    return re.sub(r"\{([^}]*)\}", mark, text)


@pytest.mark.parametrize(("text", "expected"), [
    ("shown [{1}, {2}\u2013{4}].", "shown."),
    ("shown{^1},{^2}, then", "shown, then"),
    ("shown.{^3} Then", "shown. Then"),
    ("known ({Lee, 2010}; {Kim et al., 2011}).", "known."),
    ("known (see {Lee, 2010}) well", "known well"),
    ("{Lee et al.} ({2010}) found", "Lee et al. found"),
    ("Lee et al. [{3}] showed", "Lee et al. showed"),
    ("rates (e.g. [{3}]) rose", "rates rose"),
    ("rates (Figure 2, {3}) rose", "rates (Figure 2) rose"),
    ("rates ({3}, Figure 2) rose", "rates (Figure 2) rose"),
    ("as described in [{3},{4}].", "as described in [3,4]."),
    ("introduced by [{7}]. It", "introduced by [7]. It"),
    ("see ref. {5}, which", "see ref. 5, which"),
    ("unlike ({Lee 2010}, but with care)", "unlike (Lee 2010, but with care)"),
    ("in{^3} mice", "in mice"),
    ("word{3}word", "word word"),
    ("IL-6{^3}-mediated", "IL-6-mediated"),
    ("{1} We", "We"),
    ("({1}; {2}) y", "y"),
    ("many [{1}] [{2}] times", "many times"),
    ("a [reviewed in {4}]: b", "a: b"),
    ("of 5 mg [{3}] and", "of 5 mg and"),
    ("{1}", ""),
])
def test_citation_styles(text: str, expected: str) -> None:
    assert without_citations(marks(text)) == expected


PLAIN = st.text(alphabet="ab .,;()[]-", max_size=12)
CITATION = st.sampled_from(["{1}", "{^2}", " {Lee 2010} ", "[{1}, {2}]", "({Lee 2010}; {3})"])


@given(st.lists(st.tuples(PLAIN, CITATION), max_size=5), PLAIN)
@settings(max_examples=300, deadline=None)
def test_words_around_marks_stay_whole(parts: list[tuple[str, str]], last: str) -> None:
    text = "".join(plain + mark for plain, mark in parts) + last
    found = without_citations(marks(text))
    assert not marked(found)
    assert not set(NUMBER + NAME + RAISED) & set(found)
    expected = re.findall(r"[ab]+", re.sub(r"\{[^}]*\}", " ", text))
    assert [word for word in re.findall(r"[a-zA-Z]+", found) if set(word) <= set("ab")] == expected
