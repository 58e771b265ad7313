"""Calibration against hand-worked cases and a naive loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.calibration import adaptive_ece, brier, ece, paper_ece_5, reliability_bins


def naive_ece(confidence, right, bins):
    total = 0.0
    for number in range(bins):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True)
                  if number / bins < c <= (number + 1) / bins or (number == 0 and c == 0)]
        if inside:
            gap = sum(c for c, _ in inside) / len(inside) - sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(gap)
    return 100 * total


def test_ece_by_hand():
    """Bin (0.5, 0.6]: confidence 0.55, accuracy 1/2; bin (0.8, 0.9]: 0.85, accuracy 1: (2 * 0.05 + 1 * 0.15) / 3."""
    assert ece([0.54, 0.56, 0.85], [1, 0, 1]) == pytest.approx(100 * (2 * 0.05 + 0.15) / 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1).map(lambda x: round(x, 6)), st.booleans()), min_size=1, max_size=40),
       st.sampled_from([1, 5, 10]))
def test_ece_is_the_naive_sum(pairs, bins):
    confidence, right = [c for c, _ in pairs], [r for _, r in pairs]
    assert ece(confidence, right, bins) == pytest.approx(naive_ece(confidence, right, bins), abs=1e-6)
    assert sum(row["count"] for row in reliability_bins(confidence, right, bins)) == len(pairs)


def test_borders_and_empty_bins():
    table = reliability_bins([0.0, 0.1, 0.30000000000000004, 1.0], [0, 1, 1, 1])
    assert [row["count"] for row in table] == [2, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert table[1] == {"low": 0.1, "high": 0.2, "count": 0, "confidence": None, "accuracy": None}


def test_adaptive_ece_by_hand_and_in_any_order():
    """Two bins of two: (0.3, 0.4) with accuracy 0 and (0.8, 0.9) with accuracy 1/2."""
    confidence, right = [0.9, 0.3, 0.8, 0.4], [1, 0, 0, 0]
    assert adaptive_ece(confidence, right, bins=2) == pytest.approx(100 * (0.35 + 0.35) / 2)
    assert adaptive_ece([0.25] * 8, [1, 0, 0, 0] * 2, bins=4) == pytest.approx(0)
    assert adaptive_ece([0.25] * 8, [1, 1, 0, 0, 0, 0, 0, 0], bins=4) == pytest.approx(0)


def test_brier_by_hand():
    assert brier([[0.7, 0.2, 0.1]], [0]) == pytest.approx(0.09 + 0.04 + 0.01)
    assert brier([[0.5, 0.5], [1, 0, 0]], [1, 2]) == pytest.approx((0.5 + 2) / 2)
    assert brier([[0.0, 1.0]], [1]) == 0


def test_the_papers_figure_uses_the_mass_as_given():
    """Renormalised 0.8 of a mass of 0.5 is a confidence of 0.4 in the bin (0.2, 0.4]."""
    assert paper_ece_5([[0.8, 0.2]], [0.5], [1]) == pytest.approx(60)


@pytest.mark.parametrize(("confidence", "right"), [([], []), ([0.5], []), ([1.5], [1]), ([np.nan], [1])])
def test_refusals(confidence, right):
    with pytest.raises(ValueError, match="calibration"):
        ece(confidence, right)
    with pytest.raises(ValueError, match="brier"):
        brier([], [])
