"""Intervals, paired tests and ranks for accuracies: pure arithmetic, no I/O, and no scipy, whose import takes 1.5 s and 65 MB.

Sources: Wilson (1927); Kish (1965) for the effective sample size; Efron (1979), by clusters Davison and Hinkley (1997, section
3.8); McNemar (1947), exact form; Holm (1979).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CELLS_AT_ONCE = 4_000_000
_MANY = 2_000
"""Of more discordant pairs than these, McNemar's sum is taken over the terms that count."""


def wilson(right: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion; ``n`` may be an effective sample size, so neither need be whole.

    Raises:
        ValueError: ``n`` is not positive, or ``right`` is not between 0 and ``n``.
    """
    if not n > 0 or not 0 <= right <= n:
        raise ValueError(f"wilson: {right} right of {n}: 0 <= right <= n and n > 0 expected")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (0.0 if right == 0 else max(0.0, centre - half)), (1.0 if right == n else min(1.0, centre + half))


def cluster_interval(clusters: Sequence[Sequence[float]] | NDArray[Any], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the accuracy where answers belong together: ``clusters[k]`` holds all answers to one question, by its shot
    sets, its permutations and the tasks that share it.

    Such answers are not independent, so the variance is that of the clusters' sums about their share; it is turned into an
    effective number of answers for Wilson's interval, which stays sane at 0 and 1. That number lies between Kish's, where a
    cluster's answers always agree (the number of clusters, if all are of one size), and the number of answers. Clusters of one
    answer: plain Wilson.

    Raises:
        ValueError: there are no clusters, or one is empty.
    """
    sums, sizes = (np.fromiter(map(of, clusters), np.float64, len(clusters)) for of in (sum, len))
    if not len(sizes) or not sizes.min():
        raise ValueError("cluster_interval: one non-empty row of answers a cluster expected, and at least one cluster")
    total = float(sizes.sum())
    accuracy = float(sums.sum()) / total
    fewest = total**2 / float((sizes**2).sum())
    independent, variance = accuracy * (1 - accuracy), _variance(sums, sizes)
    effective = fewest
    if independent > 0 and 1 < len(sizes) < total:
        effective = max(fewest, independent / variance if variance * total > independent else total)
    return wilson(accuracy * effective, effective, confidence)


def _variance(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Variance of ``sums.sum() / sizes.sum()`` over independent clusters (ratio estimator; Cochran 1977, section 6.3)."""
    if len(sums) < 2:
        return math.inf
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float((residuals**2).sum()) * len(sums) / (len(sums) - 1) / float(sizes.sum()) ** 2


def differences(a: ArrayLike, b: ArrayLike,
                clusters: NDArray[Any] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of ``a - b`` over the questions of each cluster (those of equal name; None: each question by itself), and its sizes.

    Raises:
        ValueError: the shapes differ, or there are no questions.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"differences: shapes {first.shape} and {second.shape}: two equal, non-empty rows expected")
    if clusters is None:
        return first - second, np.ones(first.size)
    _, place = np.unique(clusters if clusters.dtype.kind == "i" else clusters.astype(str), return_inverse=True)
    # rounding joins 2/3 - 1/3 and 1/3 - 0, which differ in their last bit
    return np.round(np.bincount(place, weights=first - second), 12), np.bincount(place).astype(np.float64)


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int, confidence: float = 0.95, resamples: int = 10_000,
                      clusters: NDArray[Any] | None = None) -> tuple[float, float, float]:
    """Mean of ``a - b`` over the same questions, with a paired percentile bootstrap interval: (difference, low, high).

    ``a`` and ``b`` hold one mean score a question, in the same order of questions; the result does not depend on which
    order that is. Questions of one cluster are drawn together. A resample is a multinomial draw over the distinct differences,
    of which scores of k shot sets have at most 2k + 1: cost and memory do not grow with the number of questions.

    Raises:
        ValueError: see `differences`.
    """
    sums, sizes = differences(a, b, clusters)
    values, counts = np.unique(np.stack([np.round(sums, 12), sizes]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(counts))
    means = np.concatenate([
        _ratio(generator.multinomial(len(sums), counts / len(sums), size=min(at_once, resamples - start)), values)
        for start in range(0, resamples, at_once)])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


def _ratio(draws: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean difference of each draw (a row) of how often each pair of sum and size comes."""
    sums, sizes = values
    ratio: NDArray[np.float64] = draws @ sums / (draws @ sizes)
    return ratio


def detectable_difference(a: ArrayLike, b: ArrayLike, level: float = 0.05, power: float = 0.8,
                          clusters: NDArray[Any] | None = None) -> float:
    """The smallest true difference that a two-sided paired test of these questions would find with this power:
    ``(z(1 - level / 2) + z(power)) * standard error``; infinite of fewer than two clusters.

    Raises:
        ValueError: see `differences`.
    """
    z = NormalDist().inv_cdf
    return (z(1 - level / 2) + z(power)) * math.sqrt(_variance(*differences(a, b, clusters)))


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided McNemar p-value: ``b`` questions only the first model has right, ``c`` only the second."""
    if b == c:
        return 1.0
    n, fewer = b + c, min(b, c)
    first = max(0, fewer - 40 * math.isqrt(n)) if n > _MANY else 0  # 80 standard deviations down nothing is left
    start = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1) if first else 0.0
    steps = np.log(np.arange(n - first, n - fewer, -1) / np.arange(first + 1, fewer + 1))
    ways = start + np.concatenate([[0.0], steps.cumsum()])  # log C(n, k), k from first to fewer
    return min(1.0, float(np.exp(ways - (n - 1) * math.log(2)).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: compare each with the family-wise level."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def ranks_with_ties(scores: Sequence[float], better: Sequence[Sequence[bool]] | None = None) -> list[int]:
    """Rank of each score, 1 the best: one more than the number of models that are better; equals share a rank (1, 2, 2, 4).

    ``better[i][j]`` may say that model i is better than j (for example: significantly); by default a higher score is.
    """
    if better is None:
        better = [[mine > other for other in scores] for mine in scores]
    return [1 + sum(bool(better[rival][index]) for rival in range(len(scores))) for index in range(len(scores))]


def spread(values: ArrayLike) -> float:
    """Population standard deviation, the spread the paper gives over its three shot sets."""
    numbers: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return float(numbers.std()) if numbers.size else 0.0
