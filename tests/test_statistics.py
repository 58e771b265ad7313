"""Statistics against closed forms, scipy, hand-worked cases and their own promise (coverage)."""

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biomistral.statistics import (
    cluster_interval,
    detectable_difference,
    differences,
    holm,
    mcnemar,
    paired_difference,
    ranks_with_ties,
    spread,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (250, 1000), (1, 1)])
def test_wilson_is_scipys(right, n):
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_intervals_and_tests_are_statsmodels():
    """Wilson at any level, McNemar's exact test from paired answers and Holm's correction, beside another implementation."""
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    contingency, multiple = (importlib.import_module(f"statsmodels.stats.{name}") for name in ("contingency_tables", "multitest"))
    generator = np.random.default_rng(5)
    for n in (1, 7, 100, 4183):
        right, level = int(generator.integers(0, n + 1)), float(generator.uniform(0.5, 0.999))
        low, high = proportion.proportion_confint(right, n, alpha=1 - level, method="wilson")
        assert wilson(right, n, level) == pytest.approx((low, high), abs=1e-12)
    for chance in (0.1, 0.5, 0.9):
        a, b = generator.random((2, 300)) < [[chance], [0.6 * chance]]
        table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
        expected = contingency.mcnemar(table, exact=True).pvalue
        assert mcnemar(int(table[0][1]), int(table[1][0])) == pytest.approx(expected, rel=1e-9)
    for count in (1, 2, 3, 17):
        p_values = generator.random(count) ** 3
        assert holm(list(p_values)) == pytest.approx(multiple.multipletests(p_values, method="holm")[1], abs=1e-15)


@pytest.mark.parametrize(("right", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_proportion(right, n):
    with pytest.raises(ValueError, match="wilson"):
        wilson(right, n)


def test_cluster_interval_of_one_set_is_wilson():
    right = np.array([1, 0, 0, 1, 1, 0, 1])
    assert cluster_interval(right[:, None]) == pytest.approx(wilson(4, 7))


def test_cluster_interval_counts_agreeing_sets_once():
    """Three shot sets that always agree hold no more evidence than one of them."""
    one = np.random.default_rng(0).random(60) < 0.4
    assert cluster_interval(np.repeat(one[:, None], 3, axis=1)) == pytest.approx(wilson(one.sum(), 60))
    assert cluster_interval(np.ones((20, 3))) == pytest.approx(wilson(20, 20))


@pytest.mark.parametrize("same", [0.0, 0.6])
def test_cluster_interval_covers(same):
    """95 % intervals hold the true accuracy in about 95 % of 1,000 simulated benchmarks, whatever ties the sets together."""
    generator, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        ability = np.where(generator.random(80) < same, (generator.random(80) < 0.35).astype(float), 0.35)
        low, high = cluster_interval(generator.random((80, 3)) < ability[:, None])
        hits += low <= 0.35 <= high
    assert 0.93 <= hits / 1000 <= 0.975


def test_clusters_by_hand():
    """Three clusters of 2, 1 and 1 answers, 3 of 4 right: residuals 2 - 1.5, 1 - 0.75 and 0 - 0.75, so variance 1.5 * 0.875 / 16;
    0.1875 over that are 2.29 answers, and Kish's number is 16 / 6 = 2.67, the lower bound."""
    assert cluster_interval([[1, 1], [1], [0]]) == pytest.approx(wilson(0.75 * 16 / 6, 16 / 6))
    with pytest.raises(ValueError, match="non-empty row of answers"):
        cluster_interval([[1], []])
    with pytest.raises(ValueError, match="at least one cluster"):
        cluster_interval([])


@pytest.mark.parametrize("same", [0.0, 0.5, 1.0])
def test_cluster_interval_covers_where_tasks_share_questions(same):
    """Sixty questions asked in one task alone and sixty in two, as MedQA's with four and with five options."""
    generator, hits = np.random.default_rng(3), 0
    for _ in range(1000):
        first, second = generator.random((2, 120)) < 0.35
        second = np.where(generator.random(120) < same, first, second)
        clusters = [[one] if number < 60 else [one, other] for number, (one, other) in enumerate(zip(first, second, strict=True))]
        low, high = cluster_interval(clusters)
        hits += low <= 0.35 <= high
    assert 0.93 <= hits / 1000 <= 0.98


def test_questions_that_two_tasks_share_are_one_question():
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 2, 80).astype(float) for _ in range(2))
    names = np.array([f"q{number}" for number in range(80)], dtype=object)
    twice = [np.concatenate([values, values]) for values in (a, b, names)]
    alone = paired_difference(a, b, seed=1)
    assert paired_difference(a, b, seed=1, clusters=names) == pytest.approx(alone)
    assert paired_difference(*twice[:2], seed=1, clusters=twice[2]) == pytest.approx(alone)
    assert detectable_difference(*twice[:2], clusters=twice[2]) == pytest.approx(detectable_difference(a, b))
    narrow = paired_difference(*twice[:2], seed=1)
    assert narrow[2] - narrow[1] < 0.8 * (alone[2] - alone[1])  # what it would be, taken for independent
    sums, sizes = differences(*twice)
    assert sorted(sums) == sorted(2 * (a - b))
    assert set(sizes) == {2}


def test_paired_difference_of_clusters_covers():
    """Clusters of one to three questions whose answers lean alike."""
    generator, hits = np.random.default_rng(4), 0
    for run in range(300):
        names = np.repeat(np.arange(100), generator.integers(1, 4, 100)).astype(object)
        hard = generator.random(100)[names.astype(int)]
        a, b = generator.random(len(names)) < 0.3 + 0.4 * hard, generator.random(len(names)) < 0.5 - 0.3 * hard
        _, low, high = paired_difference(a, b, seed=run, resamples=1000, clusters=names)
        hits += low <= 0.15 <= high
    assert hits / 300 >= 0.91


def test_paired_difference_matches_the_enumerated_bootstrap():
    """Five questions: all 5^5 resamples, each as likely as the other, give the exact quantiles."""
    a, b = np.array([1, 1, 0, 1, 0.0]), np.array([0, 1, 0, 0, 1.0])
    means = sorted((a - b)[list(draw)].mean() for draw in itertools.product(range(5), repeat=5))
    difference, low, high = paired_difference(a, b, seed=3)
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((np.quantile(means, 0.025), np.quantile(means, 0.975)), abs=1e-9)


def test_paired_difference_is_seeded_ordered_by_nothing_and_scipys():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 4, 400) / 3, generator.integers(0, 4, 400) / 3
    order = generator.permutation(400)
    found = paired_difference(a, b, seed=7)
    assert found == pytest.approx(paired_difference(a[order], b[order], seed=7), abs=1e-12)
    expected = stats.bootstrap((a - b,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(5))
    assert found[1:] == pytest.approx(tuple(expected.confidence_interval), abs=0.006)
    assert paired_difference(a, a, seed=0) == (0.0, 0.0, 0.0)


def test_paired_difference_of_many_distinct_values_stays_bounded():
    a = np.random.default_rng(0).random(5000)
    difference, low, high = paired_difference(a, a * 0.5, seed=0, resamples=2000)
    assert low < difference < high
    with pytest.raises(ValueError, match="shapes"):
        paired_difference(a, a[:-1], seed=0)


def test_paired_difference_covers():
    generator, hits = np.random.default_rng(2), 0
    for run in range(300):
        hard = generator.random(120)
        a, b = generator.random(120) < 0.3 + 0.4 * hard, generator.random(120) < 0.2 + 0.4 * hard
        _, low, high = paired_difference(a, b, seed=run, resamples=1000)
        hits += low <= 0.1 <= high
    assert hits / 300 >= 0.91


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    for b, c in ((1000, 1001), (1001, 1003), (9_900, 10_100), (49_000, 51_000), (90_000, 100_000), (3, 5_000)):
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-7, abs=1e-300), "of many as of few"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_lowers(p_values):
    adjusted = holm(p_values)
    assert all(mine >= raw for mine, raw in zip(adjusted, p_values, strict=True))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


def test_ranks():
    assert ranks_with_ties([0.3, 0.5, 0.5, 0.1]) == [3, 1, 1, 4]
    worse_than_nobody = [[False] * 2 for _ in range(2)]
    assert ranks_with_ties([0.3, 0.9], better=worse_than_nobody) == [1, 1]


def test_spread_is_the_population_deviation():
    assert spread([0.5, 0.6, 0.7]) == pytest.approx((2 / 300) ** 0.5)
    assert spread([0.5]) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_scipys_exact_binomial(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_detectable_difference_is_detected_in_80_of_100_cases():
    """Answers of two models that differ by just that much: the paired test finds it as often as promised."""
    generator = np.random.default_rng(0)
    a = (generator.random(400) < 0.6).astype(float)
    b = np.where(generator.random(400) < 0.3, 1 - a, a)  # three tenths of the answers flip
    detectable = detectable_difference(a, b)
    assert detectable == pytest.approx((1.959964 + 0.841621) * np.std(a - b, ddof=1) / 20, rel=1e-5)
    apart = generator.normal(detectable, np.std(a - b, ddof=1), size=(4000, 400))
    found = np.abs(apart.mean(1)) > 1.959964 * apart.std(1, ddof=1) / 20
    assert found.mean() == pytest.approx(0.8, abs=0.02)
    assert detectable_difference([1.0], [0.0]) == np.inf
    assert detectable_difference(a, a) == 0
    with pytest.raises(ValueError, match="differences: shapes"):
        detectable_difference([1.0, 0.0], [1.0])
