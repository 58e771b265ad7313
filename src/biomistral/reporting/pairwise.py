"""Every pair of a board's runs at once: exact paired tests, and the ranks and best rows that they bear out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomistral.reporting.results import Run
from biomistral.statistics import holm, mcnemar, ranks_with_ties

SIGNIFICANT = 0.05
_SAME = 1e-9
"""Sums of thirds that are equal differ in their last bits."""


@dataclass(frozen=True)
class Pairs:
    """``gained[i, j]``: questions that run i answered right more often than run j; those that ask the same count as one."""

    accuracies: Sequence[float]
    gained: NDArray[np.int64]

    def leader(self) -> int:
        """The run that leads, the first of several with the same accuracy."""
        return int(np.argmax(self.accuracies))

    def not_beaten(self) -> list[int]:
        """The runs that the exact paired test (Holm) cannot tell from the leader."""
        leader = self.leader()
        rivals = [index for index in range(len(self.accuracies)) if index != leader]
        p_values = holm([mcnemar(int(self.gained[leader, one]), int(self.gained[one, leader])) for one in rivals])
        return [one for one, p in zip(rivals, p_values, strict=True) if p >= SIGNIFICANT]

    def best(self) -> int | None:
        """The one run that the test tells from every other; None if there is none, or no other."""
        return self.leader() if len(self.accuracies) > 1 and not self.not_beaten() else None

    def ranks(self) -> list[int]:
        """Rank of each run, 1 the best: one more than the number of runs that are better by the exact paired test, corrected for
        the number of pairs (Holm). Runs that are beaten by as many share a rank."""
        count = len(self.accuracies)
        pairs = [(one, other) for one in range(count) for other in range(one)]
        p_values = holm([mcnemar(int(self.gained[one, other]), int(self.gained[other, one])) for one, other in pairs])
        better = [[False] * count for _ in range(count)]
        for (one, other), p in zip(pairs, p_values, strict=True):
            if p < SIGNIFICANT:
                winner, loser = (one, other) if self.gained[one, other] > self.gained[other, one] else (other, one)
                better[winner][loser] = True
        return ranks_with_ties(self.accuracies, better)


def pairs(board: Sequence[Run], kind: str = "overall", name: str = "overall", language: str = "") -> Pairs:
    """Compare all runs of a board over all questions, or those of one task, group or language."""
    places = board[0].places(kind, name, language)
    scores = np.stack([run.scores[places] for run in board])
    return Pairs(scores.mean(axis=1).tolist(), _gained(_sums(scores, board[0].clusters[places])))


def differences_of_all(board: Sequence[Run]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy of each run (rows) minus that of each other one (columns) over all questions, and half of its 95 % interval.

    The interval is normal, from the spread of the differences over clusters (the error of `statistics.detectable_difference`), of
    all pairs by one product of matrices; nan where all questions ask the same."""
    clusters = board[0].clusters
    sums = _sums(np.stack([run.scores for run in board]), clusters)
    sizes = np.bincount(np.unique(clusters, return_inverse=True)[1]) if sums.shape[1] < len(clusters) else np.ones(len(clusters))
    totals, weighted, products = sums.sum(axis=1), sums @ sizes, sums @ sums.T
    found = (totals[:, None] - totals) / len(clusters)
    squares = np.diag(products)[:, None] + np.diag(products) - 2 * products
    spread = squares - 2 * found * (weighted[:, None] - weighted) + found**2 * (sizes**2).sum()
    count = sums.shape[1]
    error = np.sqrt(np.maximum(spread, 0) * count / (count - 1)) if count > 1 else np.full_like(spread, np.nan)
    return found, 1.959964 * error / len(clusters)


def _sums(scores: NDArray[np.float64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Summed over the questions of each cluster: (runs, clusters)."""
    _, place = np.unique(clusters, return_inverse=True)
    if place.max() + 1 == scores.shape[1]:
        return scores
    return np.stack([np.bincount(place, weights=row) for row in scores])


def _gained(sums: NDArray[np.float64]) -> NDArray[np.int64]:
    """(runs, runs). Rights and wrongs alone are counted by a product of matrices, exact in float32 up to 16 million."""
    if ((sums == 0) | (sums == 1)).all() and sums.shape[1] < 1 << 24:
        right = sums.astype(np.float32)
        counted: NDArray[np.int64] = np.rint(right @ (1 - right).T).astype(np.int64)
        return counted
    return np.stack([(sums[one] - sums > _SAME).sum(axis=1) for one in range(len(sums))])
