"""DARE's random masks: whether an element stays is a function of seed, tensor and position alone."""

import numpy as np

from biomistral.merging.blocks import BLOCK
from biomistral.merging.floats import Float
from biomistral.merging.fused.native import run, spare

_KEPT_UP_TO = 1 << 25
"""Elements of a tensor whose masks are kept, a byte each; those of larger ones are drawn again."""


def kept_bytes(numel: int) -> int:
    """Memory that the masks of one model's tensor take between two readings."""
    return numel if numel <= _KEPT_UP_TO else 0


def dare_mask(key: int, start: int, density: float, mask: np.ndarray) -> int:
    """Fill ``mask`` (uint8) with 0 and 1, Bernoulli(density), for elements from ``start`` on of a tensor; how many are 1.

    A number of 32 bits is lower than the density or not. Its first 8 bits are enough for all but one element in 256, so only
    those draw the rest (`fused.drawing`). ``start`` is a multiple of `blocks.BLOCK`.
    """
    assert start % BLOCK == 0, start
    limit, rest = divmod(round(density * 2**32), 1 << 24)
    if limit == 256:
        mask[:] = 1
        return len(mask)
    return run("draw", Float.F32, mask, len(mask), key, start, limit, rest, spare(2))


class Draws:
    """The masks of one tensor of one model, chunk by chunk; with ``twice`` those of the first reading are kept for the second."""

    def __init__(self, key: int, density: float, numel: int, twice: bool) -> None:
        self._key, self._density, self._keeps = key, density, twice and kept_bytes(numel) > 0
        self._drawn: dict[int, tuple[np.ndarray, int]] = {}

    def mask(self, start: int, count: int) -> tuple[np.ndarray, int]:
        """1 (uint8) where an element from ``start`` on stays, else 0; and how many do."""
        if start in self._drawn:
            return self._drawn.pop(start)
        mask: np.ndarray = np.empty(count, np.uint8)
        kept = dare_mask(self._key, start, self._density, mask)
        if self._keeps:
            self._drawn[start] = mask, kept
        return mask, kept
