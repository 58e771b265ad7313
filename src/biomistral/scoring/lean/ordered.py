"""Weights written in the order that oneDNN multiplies them in, from integers that lie in this order too.

oneDNN keeps weights in blocks of some outputs; in a block, by pairs of inputs, each output's two values. Which order it took is
learnt from it and proved on random numbers, once a shape; where it is another, there is none (`places_for`).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from biomistral.loops.sharing import share
from biomistral.models.quantized.matrix import IntMatrix
from biomistral.scoring.lean.native import run

_BLOCKS = (64, 48, 32, 16)
"""Outputs that oneDNN takes together, by what the processor multiplies with."""
_AT_ONCE = 1 << 19
"""Weights of a thread, at least."""


@dataclass(frozen=True)
class Place:
    """Room for a product's weights as oneDNN knows it, ``weight``, and the same memory as words of two values,
    ``words`` (blocks, inputs / 2, block)."""

    weight: Tensor
    words: Tensor


Places = dict[tuple[str, int, int], Place | None]
"""By role in a layer, outputs and inputs: a model's layers use them one after the other, a layer's products at a time."""


@dataclass(frozen=True)
class OrderedIntegers:
    """Integers in the order of a place: ``levels`` uint8 (blocks, inputs / 2, block), the even input's low and the odd one's
    high, or of 8 bits with each other; ``zeros`` and ``scales`` (inputs / group, outputs in whole blocks)."""

    place: Place
    levels: Tensor
    zeros: Tensor
    scales: Tensor
    bits: int

    def weights(self) -> Tensor:
        """The place, with these weights in it: (q - z) * s, computed in float32 and rounded once."""
        words, (groups, outputs) = self.place.words, self.zeros.shape
        blocks, pairs, block = words.shape
        zeros, scales = self.zeros.float(), self.scales.float()

        def write(first: int, last: int) -> None:
            run(f"weigh_{self.bits}", self.levels, zeros, scales, block, pairs, groups, outputs, first, last, words)

        share(blocks, -(-_AT_ONCE // (2 * pairs * block)), write)
        return self.place.weight


def ordered_integers(matrices: Sequence[IntMatrix], chunk: int, role: str, places: Places) -> OrderedIntegers | None:
    """Matrices under one another, in the order of products of ``chunk`` rows; None where that is not known."""
    kinds = {(matrix.bits, matrix.group_size) for matrix in matrices}
    outputs, inputs = sum(len(matrix.levels) for matrix in matrices), matrices[0].levels.shape[1]
    if len(kinds) > 1 or matrices[0].group_size % 2:
        return None
    if (role, outputs, inputs) not in places:
        places[role, outputs, inputs] = place_for(outputs, inputs, chunk)
    place = places[role, outputs, inputs]
    if place is None:
        return None
    block = place.words.shape[2]
    levels = in_order(torch.cat([matrix.levels for matrix in matrices]), block)
    if matrices[0].bits == 4:
        levels = levels[..., 0] | levels[..., 1] << 4
    zeros, scales = (_by_group(torch.cat([getattr(matrix, name) for matrix in matrices]), block) for name in ("zeros", "scales"))
    return OrderedIntegers(place, levels.contiguous(), zeros, scales, matrices[0].bits)


def in_order(matrix: Tensor, block: int) -> Tensor:
    """(N, K) as (blocks, K / 2, block, 2), zeros behind the last outputs."""
    filled = functional.pad(matrix, (0, 0, 0, -len(matrix) % block))
    return filled.view(-1, block, matrix.shape[1] // 2, 2).transpose(1, 2)


def _by_group(numbers: Tensor, block: int) -> Tensor:
    """(N, K/g) as (K/g, outputs in whole blocks)."""
    return functional.pad(numbers, (0, 0, 0, -len(numbers) % block)).t().contiguous()


def place_for(outputs: int, inputs: int, chunk: int) -> Place | None:
    """Room for weights in the order of products of ``chunk`` rows, where this order is one of blocks."""
    if inputs % 2 or not hasattr(torch.ops.mkldnn, "data_ptr"):
        return None
    words = torch.randint(0, 0x7F80, (outputs, inputs), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    weight = torch.ops.mkldnn._reorder_linear_weight(words.view(torch.bfloat16), chunk)
    size = int(torch.ops.mkldnn._nbytes(weight))
    raw = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(weight))
    held = torch.frombuffer(raw, dtype=torch.int16)
    for block in _BLOCKS:
        expected = in_order(words, block)
        if expected.numel() == len(held) and torch.equal(expected, held.view(expected.shape)):
            return Place(weight, held.view(torch.int32).view(expected.shape[:3]))
    return None
