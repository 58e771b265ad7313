"""Integers of 4 or 8 bits in int32 words, the first in the lowest bits, as all layouts here hold them.

Done on bytes: the words of a safetensors file are little-endian, so byte j of a word is its j-th pair of 4-bit integers.
"""

import sys

import torch
from torch import Tensor
from torch.nn import functional

WORD_BITS = 32
assert sys.byteorder == "little"


def pack_words(levels: Tensor, bits: int) -> Tensor:
    """uint8 (..., n) of 0..2^bits - 1 to int32 words (..., ceil(n * bits / 32)); what fills the last word is 0."""
    filling = -levels.shape[-1] % (WORD_BITS // bits)
    levels = functional.pad(levels, (0, filling))
    if bits == 4:
        levels = levels[..., 0::2] | levels[..., 1::2] << 4
    return levels.reshape(-1).view(torch.int32).view(*levels.shape[:-1], levels.shape[-1] // 4)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """int32 words (..., m) to uint8 (..., m * 32 / bits) of 0..2^bits - 1."""
    levels = words.reshape(-1).view(torch.uint8).view(*words.shape[:-1], words.shape[-1] * 4)
    if bits == 4:
        levels = torch.stack((levels & 15, levels >> 4), -1).flatten(-2)
    return levels
