"""How hard questions are for a set of models, and how alike the models answer: pure arithmetic, no I/O.

Sources: Cohen (1960) for kappa.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from biomistral.reporting.answers import NONE, STEPS, Bytes

Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Difficulty:
    """Of each question the share of models that answer it right, in ``bins`` equal bins (the last one with 1 in it): how many
    questions fall in each, and how many no model and every model has right in all its answers."""

    counts: list[int]
    by_none: int
    by_all: int
    mean: float


def difficulty(shares: Bytes, bins: int = 10) -> Difficulty:
    """``shares`` (models, questions) in `STEPS`: how often each model has each question right."""
    means = shares.astype(np.float64).mean(axis=0) / STEPS
    places = np.minimum((np.round(means * bins, 12)).astype(np.int64), bins - 1)
    return Difficulty(np.bincount(places, minlength=bins).tolist(), int((shares == 0).all(axis=0).sum()),
                      int((shares == STEPS).all(axis=0).sum()), float(means.mean()))


def agreement(chosen: Bytes) -> tuple[Matrix, Matrix]:
    """Shares of questions (models, models) to which two models give the same answer, and Cohen's kappa of the two: 1 is always
    the same, 0 what their habits of choosing letters would give; NaN where both always give one and the same letter.

    ``chosen`` (models, questions) are options from 0; `NONE`, an answer that cannot be read, agrees with nothing.
    """
    options = int(np.where(chosen == NONE, 0, chosen).max(initial=0)) + 1
    given = (chosen[:, :, None] == np.arange(options)).astype(np.float32)
    flat = given.reshape(len(chosen), -1)
    same = (flat @ flat.T).astype(np.float64) / chosen.shape[1]
    habits = given.mean(axis=1, dtype=np.float64)
    expected = habits @ habits.T
    kappa = np.divide(same - expected, 1 - expected, out=np.full_like(same, np.nan), where=expected < 1 - 1e-12)
    return same, kappa


def examples(shares: Bytes, count: int = 3) -> list[int]:
    """Places of questions to show: the one that most models have right, the one that fewest do, and others evenly between; of
    equals the first."""
    order = np.argsort(-shares.astype(np.int64).sum(axis=0), kind="stable")
    wanted = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(wanted.tolist())]
