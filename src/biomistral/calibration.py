"""How far confidence can be trusted: calibration errors, Brier score and reliability bins. Pure arithmetic, no I/O.

Errors are in points (0 to 100), as the paper gives them; confidences and accuracies are fractions.
Sources: Naeini et al. (2015) and Guo et al. (2017) for ECE; Nguyen and O'Connor (2015) for equal-count bins; Brier (1950).
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Bin(TypedDict):
    """One bar of a reliability diagram; ``confidence`` and ``accuracy`` are None where nothing fell into it."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def _checked(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    confidences, rights = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if confidences.ndim != 1 or confidences.shape != rights.shape or not confidences.size:
        raise ValueError(f"calibration: shapes {confidences.shape} and {rights.shape}: two equal, non-empty rows expected")
    if not bool(((confidences >= 0) & (confidences <= 1 + 1e-9)).all()):
        raise ValueError("calibration: confidences must lie between 0 and 1")
    return confidences, rights


def reliability_bins(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> list[Bin]:
    """Equal-width bins ``(low, high]`` of the confidence, the first with 0 in it: count, mean confidence, accuracy.

    Raises:
        ValueError: nothing was given, lengths differ, or a confidence is no probability.
    """
    confidences, rights = _checked(confidence, right)
    # twelve digits, so that a tenth that was computed falls into the bin that 0.1 falls into
    index = np.clip(np.ceil(np.round(confidences * bins, 12)).astype(int) - 1, 0, bins - 1)
    table: list[Bin] = []
    for number in range(bins):
        inside = index == number
        count = int(inside.sum())
        table.append({"low": number / bins, "high": (number + 1) / bins, "count": count,
                      "confidence": float(confidences[inside].mean()) if count else None,
                      "accuracy": float(rights[inside].mean()) if count else None})
    return table


def ece(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error, in points: ``100 * sum over bins of n_b / N * |mean confidence - accuracy|``.

    Raises:
        ValueError: see `reliability_bins`.
    """
    table = reliability_bins(confidence, right, bins)
    total = sum(row["count"] for row in table)
    return 100 * sum(row["count"] / total * abs(row["confidence"] - row["accuracy"]) for row in table
                     if row["confidence"] is not None and row["accuracy"] is not None)


def adaptive_ece(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Calibration error over bins of equal count, in points. Answers of equal confidence share their mean accuracy,
    so the order in which they come changes nothing.

    Raises:
        ValueError: see `reliability_bins`.
    """
    confidences, rights = _checked(confidence, right)
    _, inverse, counts = np.unique(confidences, return_inverse=True, return_counts=True)
    shared = (np.bincount(inverse, weights=rights) / counts)[inverse]
    order = np.argsort(confidences, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(float(confidences[part].mean()) - float(shared[part].mean())) * len(part) for part in parts]
    return 100 * sum(gaps) / len(order)


def brier(probabilities: Sequence[ArrayLike], answers: Sequence[int]) -> float:
    """Multi-class Brier score, 0 (best) to 2: mean over questions of the squared distance between the options'
    probabilities and the truth. Questions may have different numbers of options; ``answers`` are 0-based.

    Raises:
        ValueError: nothing was given, or lengths differ.
    """
    if not len(probabilities) or len(probabilities) != len(answers):
        raise ValueError(f"brier: {len(probabilities)} distributions for {len(answers)} answers")
    total = 0.0
    for row, answer in zip(probabilities, answers, strict=True):
        given = np.asarray(row, dtype=np.float64)
        truth = np.zeros_like(given)
        truth[answer] = 1.0
        total += float(((given - truth) ** 2).sum())
    return total / len(probabilities)


def paper_ece_5(probabilities: Sequence[ArrayLike], letter_mass: ArrayLike, right: ArrayLike) -> float:
    """The original's calibration error, in points: five equal-width bins over the letters' probability as the model
    gave it, not renormalised (SPEC: kept under its own name, since such a confidence is no distribution's maximum).

    Raises:
        ValueError: see `reliability_bins`.
    """
    top = np.array([np.max(np.asarray(row, dtype=np.float64)) for row in probabilities])
    return ece(np.minimum(top * np.asarray(letter_mass, dtype=np.float64), 1.0), right, bins=5)
