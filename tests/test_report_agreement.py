"""How alike models answer and how hard questions are: against the definitions."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from biomistral.reporting.agreement import agreement, difficulty, examples
from biomistral.reporting.answers import NONE


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.sampled_from([0, 1, 2, NONE]), min_size=n, max_size=n),
                                                    min_size=1, max_size=3)))
def test_agreement_is_what_cohen_defines(chosen: list[list[int]]) -> None:
    same, kappa = agreement(np.array(chosen, dtype=np.uint8))
    for one, row in enumerate(chosen):
        for other, column in enumerate(chosen):
            observed = np.mean([a == b != NONE for a, b in zip(row, column, strict=True)])
            mine, theirs = Counter(row), Counter(column)
            expected = sum(mine[letter] * theirs[letter] for letter in range(3)) / len(row) ** 2
            assert abs(same[one, other] - observed) < 1e-6
            assert np.isnan(kappa[one, other]) if expected == 1 else (
                abs(kappa[one, other] - (observed - expected) / (1 - expected)) < 1e-5)


def test_difficulty_counts_every_question_once() -> None:
    shares = np.array([[0, 200, 200, 100], [0, 200, 0, 100]], dtype=np.uint8)
    found = difficulty(shares, bins=4)
    assert (found.counts, found.by_none, found.by_all, found.mean) == ([1, 0, 2, 1], 1, 1, 0.5)
    assert examples(shares) == [1, 3, 0] or examples(shares) == [1, 2, 0]
    assert examples(shares[:, :1]) == [0]
