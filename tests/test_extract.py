"""What a text answers: letters, options in words, or nothing that can be told, with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.scoring.extract import extract

OPTIONS = ("Aspirin", "Heparin", "Low molecular weight heparin", "Vitamin K")
LETTERS = "ABCD"


@pytest.mark.parametrize(("said", "letter"), [
    ("B", "B"), ("b)", "B"), ("(C) because", "C"), ("**D.**", "D"), (" A\n\nQuestion: What", "A"), ("B: Heparin", "B"),
    ("The answer is C.", "C"), ("Answer: (B)", "B"), ("I would say the correct option is **D**, since", "D"),
    ("Therefore \\boxed{A}", "A"), ("Therefore $\\boxed{\\text{B}}$; option C is wrong", "B"),
    ("It is vitamin K.", "D"), ("low-molecular-weight heparin", "C"), ("Give ASPIRIN at once", "A"),
])
def test_answers_that_can_be_read(said, letter):
    assert extract(said, OPTIONS, LETTERS) == (letter, "")


@pytest.mark.parametrize(("said", "reason"), [
    ("", "empty"), (" \n", "empty"), ("A patient with fever needs rest", "no option named"), ("I cannot help", "no option named"),
    ("The answer is A. No, the answer is B.", "several options named"), ("aspirin or vitamin K", "several options named"),
    ("E", "letter outside the options"), ("The answer is F", "letter outside the options"),
    ("Answer: Aspirins", "no option named"), ("The answer is a", "no option named"),
])
def test_answers_that_cannot(said, reason):
    assert extract(said, OPTIONS, LETTERS) == ("", reason)


def test_options_beyond_ascii():
    assert extract("C'est le cœur.", ("Le cœur", "Le foie"), "AB") == ("A", "")
    assert extract("答案是心脏", ("心脏", "肝"), "AB") == ("", "no option named")  # no spaces: words cannot be told apart
    assert extract("心脏", ("心脏", "肝"), "AB") == ("A", "")


@given(st.text(max_size=80))
def test_a_letter_or_a_reason_and_never_both(said):
    letter, reason = extract(said, OPTIONS, LETTERS)
    assert (letter in LETTERS and not reason) if letter else reason
