"""The order of the data: a function of the seed and the epoch, reached directly at any position."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from biomistral.seeds import seed

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permutation(key: int, size: int) -> np.ndarray:
    """A permutation of ``range(size)``, int64, that depends on ``key`` alone.

    Entries are sorted by a hash of themselves (SplitMix64, Steele et al. 2014) and not drawn from a library's generator,
    whose stream may change from one version to the next.
    """
    with np.errstate(over="ignore"):
        value = (np.arange(size, dtype=np.uint64) + np.uint64(key)) * _MIX[0]
        value = (value ^ (value >> np.uint64(30))) * _MIX[1]
        value = (value ^ (value >> np.uint64(27))) * _MIX[2]
        value ^= value >> np.uint64(31)
    order: np.ndarray = np.argsort(value, kind="stable")
    return order


@lru_cache(maxsize=2)
def _epoch_order(root: int, epoch: int, size: int) -> np.ndarray:
    return permutation(seed(root, "order", epoch), size)


def index_at(root: int, size: int, position: int) -> int:
    """Which of ``size`` items stands at ``position`` of the endless sequence of shuffled epochs."""
    epoch, within = divmod(position, size)
    return int(_epoch_order(root, epoch, size)[within])


def indices_of_step(root: int, size: int, total: int, batch: int, step: int) -> Iterator[int]:
    """The items of step ``step`` (from 0): positions ``step * batch`` up to the next step's, or up to ``total``."""
    for position in range(step * batch, min((step + 1) * batch, total)):
        yield index_at(root, size, position)
