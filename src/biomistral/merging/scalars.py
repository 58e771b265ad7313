"""What a merge settles once for a tensor, before its elements: coefficients, counts, thresholds, random bits, rescales.

Plain numbers and numpy, for both ways to compute (`methods` and `fused`). mergekit 0.1.5's results are the reference.
"""

import math
from dataclasses import dataclass

import numpy as np

from biomistral.merging.floats import Float, rounded

_LERP_FROM = 0.9995
_NORM_FLOOR = 1e-8
_L1_FLOOR = 1e-7


# ---- slerp ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interpolation:
    """Coefficients of two tensors, the cosine between them, and which formula gave the coefficients."""

    first: float
    second: float
    cosine: float
    branch: str


def slerp_coefficients(t: float, dot: float, norm_first: float, norm_second: float) -> Interpolation:
    """Spherical interpolation of two whole tensors; nearly parallel ones (abs(cosine) > 0.9995) are interpolated linearly.

    The coefficients act on the tensors as they are, not normalised.
    """
    norms = [norm if norm > _NORM_FLOOR else 1.0 for norm in (norm_first, norm_second)]
    cosine = min(1.0, max(-1.0, dot / (norms[0] * norms[1])))
    if abs(cosine) > _LERP_FROM:
        return Interpolation(1 - t, t, cosine, "lerp")
    angle = math.acos(cosine)
    return Interpolation(math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle), cosine, "slerp")


# ---- which elements of a task vector stay ----------------------------------------------------------------------------


def num_kept(density: float, numel: int) -> int:
    """How many of ``numel`` elements TIES keeps: at least one, unless the density is 0."""
    return 0 if density <= 0 else min(numel, max(1, int(density * numel)))


def breadcrumbs_band(density: float, gamma: float, numel: int) -> tuple[int, int]:
    """How many of the smallest magnitudes Model Breadcrumbs drops, and how many of those above them it keeps.

    The share ``gamma`` of the largest is dropped too, or less of it where the density would not be reached.
    """
    kept = int(density * numel)
    return max(0, numel - kept - int(gamma * numel)), kept


def select_bin(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin of a histogram that holds the ``rank``-th largest element, and how many lie in higher bins."""
    from_top = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_top, rank))
    return len(counts) - 1 - index, int(from_top[index]) - int(counts[::-1][index])


class Ranking:
    """The ``rank`` largest of integers that come in chunks, found exactly by radix selection from histograms.

    A histogram of 15 bits is enough for 16-bit types; float32 takes a second one of the lower 16. Of integers equal to the
    threshold the first ones belong to the largest, until there are ``rank``.
    """

    def __init__(self, dtype: Float, rank: int) -> None:
        self.passes = num_passes(dtype)
        self.threshold, self.rank = 0, rank  # a rank may be set until the first reading is settled
        self.counts: np.ndarray = np.zeros(1 << 15, np.int64)

    def count(self, number: int, bits: np.ndarray) -> None:
        """Take in a chunk of the integers."""
        digits = bits >> 16 * (self.passes - 1) if number == 0 else bits[bits >> 16 == self.threshold] & 0xFFFF
        self.counts += np.bincount(digits, minlength=len(self.counts))

    def settle(self, number: int) -> None:
        if self.rank:
            found, above = select_bin(self.counts, self.rank)
            self.threshold = found if number == 0 else (self.threshold << 16) + found
            self.rank -= above
        self.counts = np.zeros(1 << 16, np.int64)


def num_passes(dtype: Float) -> int:
    """Readings that a `Ranking` takes."""
    return 2 if dtype is Float.F32 else 1


def uniform_bits(key: int, start: int, count: int) -> np.ndarray:
    """Uniform numbers of 32 bits of elements ``start`` to ``start + count`` of a tensor: a function of key and position alone.

    Philox gives 256 bits a counter step: ``start`` is a multiple of 8.
    """
    assert start % 8 == 0
    found: np.ndarray = np.random.Philox(key=key, counter=start // 8).random_raw(-(-count // 2)).view("u4")[:count]
    return found


def dare_dtype(dtype: Float) -> Float:
    """The type mergekit drops and rescales in: float16 is done in float32."""
    return Float.F32 if dtype is Float.F16 else dtype


def dare_density(density: float, dtype: Float) -> float:
    """The probability mergekit draws with: in bfloat16 it is rounded to that type first."""
    return rounded(density, dare_dtype(dtype))


def l1_rescale(before: float, after: float, dtype: Float) -> float:
    """mergekit's rescale: the ratio of L1 norms before and after thinning, not 1 / density; 1 where either vanishes.

    Norms and ratio round to ``dtype``, but a float16 norm that overflows (mergekit's result is then NaN) stays a float32.
    """
    if math.isinf(rounded(before, dtype)):
        dtype = Float.F32
    before, after = rounded(before, dtype), rounded(after, dtype)
    return 1.0 if min(before, after) < _L1_FLOOR else rounded(before / after, dtype)


# ---- sums of task vectors --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    """How thinned task vectors are added to the base."""

    weights: tuple[float, ...]
    consensus: bool
    normalize: bool
    scale: float = 1.0


MOST_SUMMED = 7
"""Weights whose sum `weight_sum` knows how to take; PyTorch adds more than these in vectors as wide as the processor's."""


def weight_sum(weights: np.ndarray) -> np.float32:
    """The sum of up to seven float32 weights in the order in which PyTorch, and so mergekit, adds them: the first four side by
    side, the fifth to the first, and so on."""
    assert len(weights) <= MOST_SUMMED
    sums: np.ndarray = np.zeros(4, np.float32)
    sums[:len(weights[:4])] = weights[:4]
    for weight in weights[4:]:
        sums[0] += weight
    return np.float32(((sums[0] + sums[1]) + sums[2]) + sums[3])
