"""The arithmetic of merging: pure functions on tensors, no files, no chunks to know about.

mergekit 0.1.5's results are the reference. Task-vector methods round to the working type after every operation, sums
accumulate in float32 and round once; linear and slerp compute in float32 and round once, at the end.
They are what `fused` compiles for the usual methods, the way of all others, and what a GPU computes.
Sources: linear arXiv 2203.05482; task arithmetic 2212.04089; TIES 2306.01708; DARE 2311.03099.
"""

import math
import operator

import torch

from biomistral.merging.kernels import block_dots, compared, keep_majority, keep_where, shared_weights, total
from biomistral.merging.scalars import Interpolation, Sum, slerp_coefficients

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
    vectors, counts = [tensor - tensors[0] for tensor in tensors[1:]], torch.zeros_like(tensors[0], dtype=torch.uint8)
    for vector in vectors:
        changed = vector.abs() > epsilon
        keep_where(vector, changed)
        counts += changed
    counts.clamp_(min=1)
    return tensors[0] + total([vector.div_(counts) for vector in vectors])


# ---- slerp ----------------------------------------------------------------------------------------------------------


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


def trim_mask(bits: torch.Tensor, threshold: int, ties_left: int) -> tuple[torch.Tensor, int]:
    """Which elements TIES keeps: those above the threshold, and the first ``ties_left`` of those equal to it.

    Returns the mask and how many ties remain to be kept further on.
    """
    above = compared(operator.gt, bits, threshold)
    if not ties_left:
        return above, 0
    equal = compared(operator.eq, bits, threshold)
    found = int(equal.count_nonzero())
    if found > ties_left:
        equal[equal.nonzero().view(-1)[ties_left:]] = False
    return equal.logical_or_(above), max(0, ties_left - found)


# ---- adding task vectors --------------------------------------------------------------------------------------------


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
