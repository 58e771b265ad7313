"""The arithmetic of merging: pure functions on tensors, no files, no chunks to know about.

mergekit 0.1.5's results are the reference. Task-vector methods round to the working type after every operation, sums
accumulate in float32 and round once; linear and slerp compute in float32 and round once, at the end.
Sources: linear arXiv 2203.05482; task arithmetic 2212.04089; TIES 2306.01708; DARE 2311.03099.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from biomistral.merging.kernels import block_dots, keep_majority, keep_where, shared_weights, total

_LERP_FROM = 0.9995
_NORM_FLOOR = 1e-8
_L1_FLOOR = 1e-7


# ---- weighted sums --------------------------------------------------------------------------------------------------


def linear(tensors: list[torch.Tensor], weights: list[float], normalize: bool = True) -> torch.Tensor:
    """Sum of ``weights[i] * tensors[i]``, divided by the sum of the weights if ``normalize``; same shape and type."""
    coefficients = torch.tensor(weights, dtype=torch.float32)
    first, *rest = coefficients.tolist()
    result = tensors[0].to(torch.float32, copy=True).mul_(first)
    for tensor, coefficient in zip(tensors[1:], rest, strict=True):
        result.add_(tensor.float(), alpha=coefficient)  # with one rounding, as mergekit's addcmul
    divisor = float(coefficients.sum())
    if normalize and divisor != 1:
        result.div_(divisor)
    return result.to(tensors[0].dtype)


def scaled(tensor: torch.Tensor, scale: float | None) -> torch.Tensor:
    """passthrough: the tensor, times ``scale`` if one is given."""
    return tensor if scale is None else tensor * scale


def near_swap(t: float, base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """nearswap: the other model's value where it lies within ``t`` of the base's, a share of it that falls with the distance
    elsewhere."""
    share = (t / (base - other).abs().clamp(min=1e-6)).clamp(min=0, max=1)
    return share * other + (1 - share) * base


def reinforced_agents(tensors: list[torch.Tensor], epsilon: float) -> torch.Tensor:
    """RAM (arXiv 2601.13572): entries that one model alone changed by more than ``epsilon`` as they are, those that several
    changed in the mean; base first."""
    vectors, counts = [tensor - tensors[0] for tensor in tensors[1:]], torch.zeros(tensors[0].shape, dtype=torch.uint8)
    for vector in vectors:
        changed = vector.abs() > epsilon
        keep_where(vector, changed)
        counts += changed
    counts.clamp_(min=1)
    return tensors[0] + total([vector.div_(counts) for vector in vectors])


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


def interpolate(first: torch.Tensor, second: torch.Tensor, by: Interpolation) -> torch.Tensor:
    """``by.first * first + by.second * second`` in float32, rounded once; an end of the way is a copy, bit for bit."""
    if (by.first, by.second) == (1, 0):
        return first
    if (by.first, by.second) == (0, 1):
        return second
    other = second.to(torch.float32, copy=True).mul_(by.second)  # rounded by itself, as in mergekit: it shows where both cancel
    return first.to(torch.float32, copy=True).mul_(by.first).add_(other).to(first.dtype)


def slerp(t: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spherical interpolation; t = 0 is ``first``."""
    a, b = first.float().flatten(), second.float().flatten()
    dot, squares_a, squares_b = (math.fsum(block_dots(*pair)) for pair in ((a, b), (a, a), (b, b)))
    return interpolate(first, second, slerp_coefficients(t, dot, math.sqrt(squares_a), math.sqrt(squares_b)))


# ---- thinning a task vector -----------------------------------------------------------------------------------------


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


def trim_mask(bits: torch.Tensor, threshold: int, ties_left: int) -> tuple[torch.Tensor, int]:
    """Which elements TIES keeps: those above the threshold, and the first ``ties_left`` of those equal to it.

    Returns the mask and how many ties remain to be kept further on.
    """
    values = bits.numpy()  # whose comparisons are ten times as quick
    if not ties_left:
        return torch.from_numpy(values > threshold), 0
    equal = values == threshold
    found = int(np.count_nonzero(equal))
    if found > ties_left:
        equal[np.flatnonzero(equal)[ties_left:]] = False
    return torch.from_numpy(equal | (values > threshold)), max(0, ties_left - found)


def uniform_bits(key: int, start: int, count: int, width: int = 32) -> np.ndarray:
    """Uniform numbers of ``width`` bits (8, 16, 32) of elements ``start`` to ``start + count`` of a tensor: a function of key
    and position alone.

    Philox gives 256 bits a counter step: ``start`` is a multiple of the elements they make.
    """
    assert start * width % 256 == 0
    numbers = np.random.Philox(key=key, counter=start * width // 256).random_raw(-(-count * width // 64))
    found: np.ndarray = numbers.view(f"u{width // 8}")[:count]
    return found


def later_bits(key: int, places: np.ndarray) -> np.ndarray:
    """24 uniform bits for elements wherever they are: SplitMix64's output function at ``key`` and position."""
    mixed = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    found: np.ndarray = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(40)
    return found


def dare_mask(key: int, start: int, count: int, density: float) -> torch.Tensor:
    """Bernoulli(density) for elements ``start`` to ``start + count`` of a tensor: whether a number of 32 bits is lower.

    Its first 8 bits are enough for all but one element in 256; drawing is most of DARE's time, so only those draw the rest.
    """
    limit, rest = divmod(round(density * 2**32), 1 << 24)
    if limit == 256:
        return torch.ones(count, dtype=torch.bool)
    numbers = uniform_bits(key, start, count, 8)
    kept = numbers < limit
    if rest:
        undecided = np.flatnonzero(numbers == limit)
        kept[undecided] = later_bits(key, undecided + start) < rest
    return torch.from_numpy(kept)


def dare_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type mergekit drops and rescales in: float16 is done in float32."""
    return torch.float32 if dtype == torch.float16 else dtype


def dare_density(density: float, dtype: torch.dtype) -> float:
    """The probability mergekit draws with: in bfloat16 it is rounded to that type first."""
    return rounded(density, dare_dtype(dtype))


def l1_rescale(before: float, after: float, dtype: torch.dtype) -> float:
    """mergekit's rescale: the ratio of L1 norms before and after thinning, not 1 / density; 1 where either vanishes.

    Norms and ratio round to ``dtype``, but a float16 norm that overflows (mergekit's result is then NaN) stays a float32.
    """
    if math.isinf(rounded(before, dtype)):
        dtype = torch.float32
    before, after = rounded(before, dtype), rounded(after, dtype)
    return 1.0 if min(before, after) < _L1_FLOOR else rounded(before / after, dtype)


def rounded(value: float, dtype: torch.dtype) -> float:
    """A number as ``dtype`` holds it."""
    return float(torch.tensor(value, dtype=dtype))


# ---- adding task vectors --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    """How thinned task vectors are added to the base."""

    weights: tuple[float, ...]
    consensus: bool
    normalize: bool
    scale: float = 1.0


def add_task_vectors(base: torch.Tensor, deltas: torch.Tensor, how: Sum) -> tuple[torch.Tensor, int]:
    """The base plus the weighted task vectors ``deltas`` (models, elements), which are overwritten.

    With consensus (TIES), only the entries whose sign agrees with the weighted sum's stay (sum >= 0 counts as positive),
    and normalising divides by the weights of those. Returns the result and the number of elements with a sign conflict.
    """
    weights, rows, conflicts = torch.tensor(how.weights, dtype=deltas.dtype), list(deltas), 0
    for row, weight in zip(rows, weights.tolist(), strict=True):
        row.mul_(weight)
    if how.consensus and len(rows) > 1:
        conflicts = keep_majority(rows)
    mixed = total(rows)
    if how.normalize and how.consensus:
        mixed /= shared_weights(rows, weights)
    elif how.normalize:
        divisor = weights.sum()
        mixed /= divisor if divisor.abs() >= 1e-8 else 1
    if how.scale != 1:
        mixed *= how.scale
    return mixed.add_(base), conflicts
