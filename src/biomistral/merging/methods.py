"""The arithmetic of merging: pure functions on tensors, no files, no chunks to know about.

mergekit 0.1.5's results are the reference. Task-vector methods round to the working type after every operation, sums
accumulate in float32 and round once; linear and slerp compute in float32 and round once, at the end.
Sources: linear arXiv 2203.05482; task arithmetic 2212.04089; TIES 2306.01708; DARE 2311.03099.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 4096
"""Elements whose sum is taken at once. Blocks start at multiples of it, so that sums do not depend on how a tensor is cut."""

_LERP_FROM = 0.9995
_NORM_FLOOR = 1e-8
_L1_FLOOR = 1e-7
_SIGN_BITS = {torch.bfloat16: (torch.int16, 0x7FFF), torch.float16: (torch.int16, 0x7FFF),
              torch.float32: (torch.int32, 0x7FFFFFFF)}


def block_sums(values: torch.Tensor) -> list[float]:
    """Float32 sums of a flat tensor's blocks; add them up with ``math.fsum``, which no order can change."""
    whole = values.numel() // BLOCK * BLOCK
    sums: list[float] = values[:whole].view(-1, BLOCK).sum(1, dtype=torch.float32).tolist() if whole else []
    return sums + ([float(values[whole:].sum(dtype=torch.float32))] if whole < values.numel() else [])


# ---- weighted sums --------------------------------------------------------------------------------------------------


def linear(tensors: list[torch.Tensor], weights: list[float], normalize: bool = True) -> torch.Tensor:
    """Sum of ``weights[i] * tensors[i]``, divided by the sum of the weights if ``normalize``; same shape and type."""
    result = torch.zeros(tensors[0].shape, dtype=torch.float32)
    coefficients = torch.tensor(weights, dtype=torch.float32)
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        result.addcmul_(tensor.float(), coefficient)
    if normalize:
        result.div_(coefficients.sum())
    return result.to(tensors[0].dtype)


def scaled(tensor: torch.Tensor, scale: float | None) -> torch.Tensor:
    """passthrough: the tensor, times ``scale`` if one is given."""
    return tensor if scale is None else tensor * scale


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
    return (first.float() * by.first).add_(second.float() * by.second).to(first.dtype)


def slerp(t: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spherical interpolation; t = 0 is ``first``."""
    a, b = first.float().flatten(), second.float().flatten()
    dot, squares_a, squares_b = (math.fsum(block_sums(product)) for product in (a * b, a * a, b * b))
    return interpolate(first, second, slerp_coefficients(t, dot, math.sqrt(squares_a), math.sqrt(squares_b)))


# ---- thinning a task vector -----------------------------------------------------------------------------------------


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the magnitudes: a float's bits without its sign (15 for 16-bit types, 31 for float32)."""
    integer, mask = _SIGN_BITS[values.dtype]
    return values.view(integer).bitwise_and(mask)


def num_kept(density: float, numel: int) -> int:
    """How many of ``numel`` elements TIES keeps: at least one, unless the density is 0."""
    return 0 if density <= 0 else min(numel, max(1, int(density * numel)))


def select_bin(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin of a histogram that holds the ``rank``-th largest element, and how many lie in higher bins."""
    from_top = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_top, rank))
    return len(counts) - 1 - index, int(from_top[index]) - int(counts[::-1][index])


def trim_mask(bits: torch.Tensor, threshold: int, ties_left: int) -> tuple[torch.Tensor, int]:
    """Which elements TIES keeps: those above the threshold, and the first ``ties_left`` of those equal to it.

    Returns the mask and how many ties remain to be kept further on.
    """
    mask = bits > threshold
    if ties_left:
        equal = (bits == threshold).nonzero().flatten()[:ties_left]
        mask[equal] = True
        ties_left -= len(equal)
    return mask, ties_left


def dare_mask(key: int, start: int, count: int, density: float) -> torch.Tensor:
    """Bernoulli(density) for elements ``start`` to ``start + count`` of a tensor: a function of key and position alone.

    Philox gives four 64-bit numbers a counter step, which are eight elements; ``start`` is a multiple of eight.
    """
    assert start % 8 == 0
    numbers = np.random.Philox(key=key, counter=start // 8).random_raw((count + 1) // 2).view(np.uint32)[:count]
    return torch.from_numpy(numbers < np.uint64(round(density * 2**32)))


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
    weights = torch.tensor(how.weights, dtype=deltas.dtype).unsqueeze(1)
    deltas.mul_(weights)
    conflicts = 0
    if how.consensus:
        majority = (deltas.sum(0) >= 0).to(deltas.dtype).mul_(2).sub_(1)
        agrees = deltas.sign() == majority
        if len(deltas) > 1:
            conflicts = int(((deltas != 0) & ~agrees).any(0).sum())
        mixed, divisor = deltas.mul_(agrees).sum(0), (weights * agrees).sum(0)
        divisor[divisor == 0] = 1
    else:
        mixed, divisor = deltas.sum(0), weights.sum(0)
        divisor[divisor.abs() < 1e-8] = 1
    if how.normalize:
        mixed /= divisor
    if how.scale != 1:
        mixed *= how.scale
    return base + mixed, conflicts
