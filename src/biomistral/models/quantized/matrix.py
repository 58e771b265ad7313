"""A matrix in integers, whatever layout it came from: groups of weights along the inputs share a scale and a zero point."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class IntMatrix:
    """``levels`` uint8 (N, K) of 0..2^bits - 1, ``zeros`` uint8 (N, K/g), ``scales`` (N, K/g): w = (q - z) * s."""

    levels: Tensor
    zeros: Tensor
    scales: Tensor
    bits: int = 4

    @property
    def group_size(self) -> int:
        return int(self.levels.shape[1] // self.scales.shape[1])

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle, 2^(bits - 1), so that a layout need not store them."""
        return bool((self.zeros == 1 << self.bits - 1).all())

    def dequantized(self) -> Tensor:
        """The float32 matrix (N, K) that the integers stand for: (q - z) * s."""
        grouped = self.levels.unflatten(1, (-1, self.group_size))
        return ((grouped.to(torch.float32) - self.zeros[..., None].float()) * self.scales[..., None].float()).flatten(1)
