"""Numbers in 8 bits, block by block (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2).

A block of 256 is divided by its largest magnitude, and each value becomes the nearest of 256 between -1 and 1 whose spacing
grows with their size: leading zero bits count powers of ten, the bits after them are linear within one. So values near the
block's largest are kept to within 1 %, and those a million times smaller are still told from zero.
"""

from functools import cache

import torch
from torch import Tensor

BLOCK = 256
"""Values that share a scale."""

_POWERS = 7  # of ten
_PATTERNS = 1 << 16


@cache
def code_book(signed: bool) -> Tensor:
    """The 256 values that codes stand for, float32, rising: from -1 or 0 to 1."""
    values = [torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    for power in range(_POWERS):
        borders = torch.linspace(0.1, 1, 2 ** (_POWERS - 1 - power + (not signed)) + 1, dtype=torch.float64)
        middles = (borders[:-1] + borders[1:]) / 2 * 10.0 ** -power
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values.float()


@cache
def _nearest(signed: bool) -> Tensor:
    """The code of every number in float16, by its bit pattern: looking one up is a tenth of the work of searching the book."""
    patterns = torch.arange(_PATTERNS, dtype=torch.int32).to(torch.uint16).view(torch.float16).float().nan_to_num().clamp(-1, 1)
    book = code_book(signed)
    return torch.bucketize(patterns, (book[:-1] + book[1:]) / 2).to(torch.uint8)


@cache
def _tables(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    return code_book(signed).to(device), _nearest(signed).to(device)


def dequantise(codes: Tensor, scales: Tensor, signed: bool, out: Tensor) -> Tensor:
    """Numbers of ``codes`` (count,), uint8, with the ``scales`` of their blocks, into ``out`` (blocks, `BLOCK`), float32."""
    book, _ = _tables(signed, codes.device)
    flat = out.view(-1)
    torch.index_select(book, 0, codes.int(), out=flat[:len(codes)])
    flat[len(codes):] = 0
    return out.mul_(scales[:, None])


def quantise(values: Tensor, signed: bool, codes: Tensor, scales: Tensor) -> None:
    """Fill ``codes`` (count,) and ``scales`` (blocks,) with the 8-bit form of ``values`` (blocks, `BLOCK`), which are spoilt."""
    _, nearest = _tables(signed, values.device)
    torch.amax(values.abs(), 1, out=scales)
    values.div_(scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
    patterns = values.view(-1)[:len(codes)].half().view(torch.uint16).int()
    torch.index_select(nearest, 0, patterns, out=codes)
