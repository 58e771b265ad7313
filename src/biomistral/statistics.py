"""Intervals, paired tests and ranks for accuracies: pure arithmetic, no I/O, and no scipy, whose import takes 1.5 s and 65 MB.

Sources: Wilson (1927); Kish (1965) for the effective sample size; Efron (1979); McNemar (1947), exact form; Holm (1979).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CELLS_AT_ONCE = 4_000_000


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


def cluster_interval(right: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the accuracy when each question was asked several times (shot sets); shape ``(questions, sets)``.

    Answers to one question are not independent, so the variance is that of the question means (clusters); it is turned
    into an effective number of answers for Wilson's interval, which stays sane at 0 and 1. That number lies between the
    number of questions (sets always agree) and the number of answers (sets are independent). One set: plain Wilson.

    Raises:
        ValueError: the array is empty or not two-dimensional.
    """
    answers = np.asarray(right, dtype=np.float64)
    if answers.ndim != 2 or answers.size == 0:
        raise ValueError(f"cluster_interval: shape {answers.shape}: (questions, sets) expected, with at least one of each")
    questions, sets = answers.shape
    accuracy = float(answers.mean())
    effective = float(questions)
    if sets > 1 and questions > 1:
        variance = float(answers.mean(axis=1).var(ddof=1)) / questions
        independent = accuracy * (1 - accuracy)
        effective = independent / variance if variance * answers.size > independent else float(answers.size)
        effective = max(effective, float(questions)) if independent > 0 else float(questions)
    return wilson(accuracy * effective, effective, confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int, confidence: float = 0.95,
                      resamples: int = 10_000) -> tuple[float, float, float]:
    """Mean of ``a - b`` over the same questions, with a paired percentile bootstrap interval: (difference, low, high).

    ``a`` and ``b`` hold one mean score a question, in the same order of questions; the result does not depend on which
    order that is. A resample is a multinomial draw over the distinct differences, of which scores of k shot sets have at
    most 2k + 1: cost and memory do not grow with the number of questions.

    Raises:
        ValueError: the shapes differ, or there are no questions.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"paired_difference: shapes {first.shape} and {second.shape}: two equal, non-empty rows expected")
    # rounding joins 2/3 - 1/3 and 1/3 - 0, which differ in their last bit
    values, counts = np.unique(np.round(first - second, 12), return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(values))
    means = np.concatenate([
        generator.multinomial(first.size, counts / first.size, size=min(at_once, resamples - start)) @ values / first.size
        for start in range(0, resamples, at_once)])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float((first - second).mean()), float(low), float(high)


def detectable_difference(a: ArrayLike, b: ArrayLike, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided paired test of these questions would find with this power:
    ``(z(1 - level / 2) + z(power)) * sd(a - b) / sqrt(n)``; infinite of fewer than two questions.

    Raises:
        ValueError: the shapes differ, or a row is not flat.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"detectable_difference: shapes {first.shape} and {second.shape}: two equal rows expected")
    if first.size < 2:
        return math.inf
    z = NormalDist().inv_cdf
    return (z(1 - level / 2) + z(power)) * float((first - second).std(ddof=1)) / math.sqrt(first.size)


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided McNemar p-value: ``b`` questions only the first model has right, ``c`` only the second."""
    if b == c:
        return 1.0
    n, fewer = b + c, min(b, c)
    ways = np.concatenate([[0.0], np.log(np.arange(n, n - fewer, -1) / np.arange(1, fewer + 1)).cumsum()])  # log C(n, k)
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
