"""Integers back to weights, (q - z) * s, as fast as PyTorch's own operations allow: 0.3 ns a weight on one core.

A product of 1,000 rows takes 4 ns a weight. Weights that are written where the last layer's were lie in the processor's cache
when the product reads them, which gains about what making them costs: 16-bit weights come from memory each time.
"""

from threading import get_ident

import torch
from torch import Tensor

_WEIGHTS_AT_ONCE = 1 << 19
"""On a CPU: 0.23 ns a weight, against 0.30 by a quarter of that and 0.7 with a 2048 x 5632 matrix at once, out of the caches."""


class Scratch:
    """Memory that a model's layers use one after the other: as much as the largest asks for, by purpose and thread."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, int], Tensor] = {}

    def take(self, purpose: str, dtype: torch.dtype, size: int) -> Tensor:
        """A tensor (size,) of any values on the CPU; what was last taken for this is lost."""
        key = (purpose, dtype, get_ident())
        if key not in self._buffers or self._buffers[key].numel() < size:
            with torch.inference_mode(False):  # what is made in it can be written in it only
                self._buffers[key] = torch.empty(size, dtype=dtype)
        return self._buffers[key][:size]


def dequantise_cpu(scratch: Scratch, stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """Write (q - z) * s into ``out`` (N, K), computed in float32 and rounded once, a cache's worth at a time.

    ``stored`` uint8 (N, K) holds the integers or, where ``shift`` is 0 or 4, in the four bits from there on; ``zeros`` uint8
    and ``scales``: (N, K/g).
    """
    inputs, groups = stored.shape[1], zeros.shape[1]
    rows_at_once = max(1, _WEIGHTS_AT_ONCE // inputs)
    for start in range(0, len(stored), rows_at_once):
        rows = slice(start, start + rows_at_once)
        part, zero, scale = stored[rows], zeros[rows, :, None], scales[rows, :, None].float()
        floats = scratch.take("floats", torch.float32, part.numel()).view(len(part), groups, -1)
        if shift is None:
            floats.copy_(part.view(floats.shape)).sub_(zero)
        else:
            levels = scratch.take("levels", torch.uint8, part.numel()).view(part.shape)
            _nibbles(part, shift, levels)
            floats.copy_(levels.view(torch.int8).view(floats.shape).sub_(zero.view(torch.int8)))
        out[rows].copy_(floats.mul_(scale).view(part.shape))


def dequantise_at_once(stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """The same for a GPU, in as few kernels: the last one multiplies in float32 and rounds as it writes."""
    if shift is None:
        centred = stored.to(torch.int16).unflatten(1, (zeros.shape[1], -1)).sub_(zeros[..., None])
    else:
        levels = torch.empty_like(stored)
        _nibbles(stored, shift, levels)
        centred = levels.view(torch.int8).unflatten(1, (zeros.shape[1], -1)).sub_(zeros[..., None].view(torch.int8))
    torch.mul(centred, scales[..., None].float(), out=out.view(centred.shape))


def _nibbles(stored: Tensor, shift: int, levels: Tensor) -> None:
    if shift:
        torch.bitwise_right_shift(stored, shift, out=levels)
    else:
        torch.bitwise_and(stored, 15, out=levels)
