"""Pure 4-bit arithmetic: groups of weights along the inputs share a scale s and a zero point z, w = (q - z) * s, q in 0..15."""

import torch
from torch import Tensor

from biomistral.models.awq_format import BITS, Int4

LEVELS = (1 << BITS) - 1


def group_range(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest weight of each group of (N, K), each (N, K/g); both ranges reach 0, so that z is in 0..15."""
    grouped = weight.unflatten(1, (-1, group_size))
    return grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)


def scales_and_zeros(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scales, already rounded to the float16 they are stored in, and zero points, as float32."""
    scales = ((high - low) / LEVELS).to(torch.float16).float()
    scales = torch.where(scales == 0, 1.0, scales)  # a group of zeros, or below float16: q = z
    zeros = (-low / scales).round_().clamp_(0, LEVELS)
    return scales, zeros


def rounded(weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The weights (N, K) that 4 bits can hold nearest to these, float32."""
    grouped = weight.unflatten(1, (scales.shape[1], -1))
    scales, zeros = scales[..., None], zeros[..., None]
    levels = (grouped / scales).round_().add_(zeros).clamp_(0, LEVELS)
    return levels.sub_(zeros).mul_(scales).flatten(1)


def quantize_groups(weight: Tensor, group_size: int, shrink: Tensor | None = None) -> Int4:
    """Round (N, K) to 4 bits; ``shrink`` (N, K/g) narrows each group's range first."""
    low, high = group_range(weight, group_size)
    if shrink is not None:
        low, high = low * shrink, high * shrink
    scales, zeros = scales_and_zeros(low, high)
    grouped = weight.unflatten(1, (-1, group_size))
    levels = (grouped / scales[..., None]).round_().add_(zeros[..., None]).clamp_(0, LEVELS)
    return Int4(levels.flatten(1).to(torch.uint8), zeros.to(torch.uint8), scales.to(torch.float16))
