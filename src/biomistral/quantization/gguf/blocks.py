"""Weights in GGUF's storage types: float32, float16, bfloat16, and blocks of 32 that share a scale (ggml's ``ggml-quants.c``).

The bytes are those of the gguf package's own numpy code, in less than a third of its CPU time: tensors pass in pieces that stay
in the processor's cache, and the extremes of short rows, most of the work there, are ten times as fast in PyTorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

BLOCK = 32
"""Weights that share a scale."""
_PIECE = 4096 * BLOCK  # numbers at a time: 512 kB of float32
_ALMOST_HALF = 0.49999997  # the float32 before 0.5: added before cutting off, it rounds halves away from zero and no others up


@dataclass(frozen=True)
class Storage:
    """A type that tensors are stored in."""

    name: str
    block: int
    block_bytes: int
    encode: Callable[[Tensor, Tensor], None]
    """Fills the bytes (blocks, block_bytes) from the float32 numbers (blocks, block), which it may overwrite."""

    def row_bytes(self, width: int) -> int:
        return width // self.block * self.block_bytes

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        return prod(shape[:-1]) * self.row_bytes(shape[-1])

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows divide into blocks."""
        return shape[-1] % self.block == 0


def encode(tensor: Tensor, storage: Storage) -> Tensor:
    """The bytes (..., row bytes) of a floating-point tensor (..., row).

    Raises:
        ValueError: a number is NaN or infinite, or the type cannot hold it.
    """
    blocks = tensor.reshape(-1, storage.block)
    out = torch.empty((len(blocks), storage.block_bytes), dtype=torch.uint8)
    step = _PIECE // storage.block
    for start in range(0, len(blocks), step):
        storage.encode(blocks[start:start + step].to(torch.float32, copy=True), out[start:start + step])
    return out.reshape(*tensor.shape[:-1], storage.row_bytes(tensor.shape[-1]))


def _plain(dtype: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    """Numbers one by one, rounded to nearest, halves to even."""
    def write(numbers: Tensor, out: Tensor) -> None:
        _check_finite(numbers)
        rounded = numbers.to(dtype)
        if dtype == torch.float16 and rounded.isinf().any():
            raise ValueError("holds numbers over 65504, for which float16 has no place; choose gguf:BF16")
        out.copy_(rounded.view(torch.uint8))
    return write


def _check_finite(numbers: Tensor) -> None:
    if not numbers.isfinite().all():
        raise ValueError("holds NaN or infinite numbers")


def _halves(numbers: Tensor) -> Tensor:
    """The two bytes (n, 2) of each number (n) in float16."""
    return numbers.half()[:, None].view(torch.uint8)


def _divide(numbers: Tensor, steps: Tensor) -> Tensor:
    """Multiply blocks by 1 / step; by 0 those of zeros alone, and of numbers so small that the inverse of their step is none."""
    inverse = 1 / steps
    inverse[inverse.isinf()] = 0
    return numbers.mul_(inverse[:, None])


def _extremes(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest number of each block."""
    largest, smallest = numbers.amax(1), numbers.amin(1)
    _check_finite(largest)
    _check_finite(smallest)
    return largest, smallest


def _furthest(numbers: Tensor) -> Tensor:
    """Of each block the number furthest from zero, with its sign; of two as far, the first."""
    largest, smallest = _extremes(numbers)
    furthest = torch.where(largest > -smallest, largest, smallest)
    equal = (largest == -smallest).nonzero()[:, 0]
    rows = numbers[equal]
    furthest[equal] = rows.gather(1, _first_of(rows.abs() == largest[equal, None]))[:, 0]
    return furthest


def _first_of(marked: Tensor) -> Tensor:
    """The place (rows, 1) of the first mark of each row."""
    return marked.to(torch.uint8).argmax(1, keepdim=True)


def _levels(numbers: Tensor, steps: Tensor, offset: float, highest: int) -> Tensor:
    """The whole numbers below numbers / step + offset, no more than ``highest``."""
    return _divide(numbers, steps).add_(offset).to(torch.int8).clamp_(max=highest).view(torch.uint8)


def _nibbles(levels: Tensor) -> Tensor:
    """Two levels a byte: the first sixteen of a block in the lower halves, the others in the upper."""
    return (levels[:, :16] & 15) | (levels[:, 16:] << 4)


def _q8_0(numbers: Tensor, out: Tensor) -> None:
    """Levels -127 to 127 times a float16 step."""
    largest, smallest = _extremes(numbers)
    steps = torch.maximum(largest, -smallest).abs_() / 127  # abs: of zeros alone it may be -0
    scaled = _divide(numbers, steps)
    out[:, :2] = _halves(steps)
    out[:, 2:] = scaled.add_(torch.copysign(torch.tensor(_ALMOST_HALF), scaled)).to(torch.int8).view(torch.uint8)


def _q4_0(numbers: Tensor, out: Tensor) -> None:
    """Levels 0 to 15, less 8, times a float16 step; the number furthest from zero is -8 steps."""
    steps = _furthest(numbers) / -8
    out[:, :2] = _halves(steps)
    out[:, 2:] = _nibbles(_levels(numbers, steps, 8.5, 15))


def _q4_1(numbers: Tensor, out: Tensor) -> None:
    """Levels 0 to 15 times a float16 step, above a float16 minimum."""
    largest, smallest = _extremes(numbers)
    steps = (largest - smallest) / 15
    out[:, :2], out[:, 2:4] = _halves(steps), _halves(smallest)
    out[:, 4:] = _nibbles(_levels(numbers.sub_(smallest[:, None]), steps, 0.5, 15))


def _q5_0(numbers: Tensor, out: Tensor) -> None:
    """Levels 0 to 31, less 16, times a float16 step; the fifth bits of a block stand together."""
    steps = _furthest(numbers) / -16
    levels = _levels(numbers, steps, 16.5, 31)
    out[:, :2] = _halves(steps)
    out[:, 2:6] = torch.from_numpy(np.packbits(levels.numpy() >> 4, axis=1, bitorder="little"))
    out[:, 6:] = _nibbles(levels)


STORAGES = {storage.name: storage for storage in (
    Storage("F32", 1, 4, _plain(torch.float32)), Storage("F16", 1, 2, _plain(torch.float16)),
    Storage("BF16", 1, 2, _plain(torch.bfloat16)), Storage("Q8_0", BLOCK, 34, _q8_0), Storage("Q4_0", BLOCK, 18, _q4_0),
    Storage("Q4_1", BLOCK, 20, _q4_1), Storage("Q5_0", BLOCK, 22, _q5_0))}
"""By the name that ggml gives them."""
