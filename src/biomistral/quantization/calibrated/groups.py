"""Pure arithmetic of integers: groups of weights along the inputs share a scale s and a zero point z, w = (q - z) * s."""

from dataclasses import dataclass

import torch
from torch import Tensor

from biomistral.models.quantized.matrix import IntMatrix


@dataclass(frozen=True)
class Scheme:
    """What integers a weight may become: ``bits`` of them, ``group_size`` weights of a row sharing a scale.

    ``symmetric``: the zero point is always the middle level, 2^(bits - 1), and the scale follows the largest |w|.
    """

    group_size: int
    bits: int = 4
    symmetric: bool = False

    @property
    def top(self) -> int:
        """The highest level; the lowest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)


def group_range(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest weight of each group of (N, K), each (N, K/g); both ranges reach 0, so that z is a level."""
    grouped = weight.unflatten(1, (-1, group_size))
    return grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)


def scales_and_zeros(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scales, already rounded to the float16 they are stored in, and zero points, as float32."""
    width = 2 * torch.maximum(-low, high) if scheme.symmetric else high - low
    scales = (width / scheme.top).to(torch.float16).float()
    scales = torch.where(scales == 0, 1.0, scales)  # a group of zeros, or below float16: q = z
    if scheme.symmetric:
        return scales, torch.full_like(scales, scheme.middle)
    return scales, (-low / scales).round_().clamp_(0, scheme.top)


def grid(weight: Tensor, scheme: Scheme, shrink: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scales and zeros (N, K/g) of a matrix (N, K) whose groups' ranges are narrowed by ``shrink`` (N, K/g)."""
    low, high = group_range(weight, scheme.group_size)
    if shrink is not None:
        low, high = low * shrink, high * shrink
    return scales_and_zeros(low, high, scheme)


def offsets(weight: Tensor, scales: Tensor, zeros: Tensor, scheme: Scheme) -> Tensor:
    """q - z of the levels nearest to weights (N, K), (N, K/g, g) float32."""
    zeros = zeros[..., None]
    quotient = weight.unflatten(1, (scales.shape[1], -1)) / scales[..., None]
    return torch.clamp(quotient.round_(), -zeros, scheme.top - zeros, out=quotient)


def rounded(weight: Tensor, scales: Tensor, zeros: Tensor, scheme: Scheme) -> Tensor:
    """The weights (N, K) nearest to these that the levels can hold, float32."""
    return offsets(weight, scales, zeros, scheme).mul_(scales[..., None]).flatten(1)


def to_levels(weight: Tensor, scales: Tensor, zeros: Tensor, scheme: Scheme) -> IntMatrix:
    """Round (N, K) to levels with these scales and zero points."""
    levels = offsets(weight, scales, zeros, scheme).add_(zeros[..., None])
    return IntMatrix(levels.flatten(1).to(torch.uint8), zeros.to(torch.uint8), scales.to(torch.float16), scheme.bits)


def in_four_bits(matrix: IntMatrix) -> IntMatrix:
    """A matrix of fewer bits as one of 4, whose levels above are never used; middle zero points stay middle ones."""
    shift = (8 - (1 << matrix.bits - 1)) if matrix.symmetric else 0
    return IntMatrix(matrix.levels + shift, matrix.zeros + shift, matrix.scales, 4)
