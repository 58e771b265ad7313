"""Compiled random masks: Philox4x32 with ten rounds (Salmon et al., SC 2011), a byte an element.

The bytes of a block of 4,096 elements come from its 256 counters: word ``w`` of counter ``j`` makes the four elements from
``4 * (256 * w + j)`` on. So words lie beside one another and a processor makes 8 counters at once; numpy's Philox is of 64-bit
words, whose products no vector holds, and takes three times as long.
"""

from typing import Any

import numpy as np

from biomistral.loops.steps import compiled, first_byte
from biomistral.merging.blocks import BLOCK

_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@compiled
def draw(mask: Any, key: int, start: int, limit: int, rest: int, words: Any, undecided: Any) -> int:
    """0 and 1 of the elements from ``start`` on, a multiple of a block; returns how many are 1.

    1 has the probability ``limit / 256 + rest / 2**32``: where an element's byte is lower than ``limit``, or equal to it and 24
    bits more (`_later`) lower than ``rest``. ``words`` (1024) and ``undecided`` (4096) are space to work in.
    """
    numbers, n = words.view(np.uint8), len(words) // 4
    kept = 0
    for block in range(0, len(mask), BLOCK):
        philox(np.uint64((start + block) // 16), np.uint64(key), words[:n], words[n:2 * n],
               words[2 * n:3 * n], words[3 * n:])
        part = mask[block:block + BLOCK]
        _compare(part, undecided, numbers, np.uint8(limit))
        if rest:
            _settle(part, undecided, np.uint64(rest), np.uint64(key), start + block)
        kept += _sum(part)
    return kept


@compiled
def philox(counter: Any, key: Any, words_0: Any, words_1: Any, words_2: Any, words_3: Any) -> None:
    """The four words of every counter from ``counter`` on, whose upper half stays the same."""
    high, key_0, key_1 = counter >> _HALF, key & _WORD, key >> _HALF
    for j in range(len(words_0)):
        a, b, c, d = (counter + np.uint64(j)) & _WORD, high, np.uint64(0), np.uint64(0)
        k_0, k_1 = key_0, key_1
        for _ in range(10):
            first, second = _FACTORS[0] * a, _FACTORS[1] * c
            a, b, c, d = (second >> _HALF) ^ b ^ k_0, second & _WORD, (first >> _HALF) ^ d ^ k_1, first & _WORD
            k_0, k_1 = (k_0 + _STEPS[0]) & _WORD, (k_1 + _STEPS[1]) & _WORD
        words_0[j], words_1[j], words_2[j], words_3[j] = np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)


@compiled
def _compare(mask: Any, undecided: Any, numbers: Any, limit: Any) -> None:
    for j in range(len(mask)):
        mask[j] = np.uint8(numbers[j] < limit)
    for j in range(len(undecided)):
        undecided[j] = np.uint8(numbers[j] == limit)


@compiled
def _settle(mask: Any, undecided: Any, rest: Any, key: Any, start: int) -> None:
    """Draw more for what is undecided, one element in 256: eight are looked at as one number."""
    eights = undecided.view(np.uint64)
    for eight in range(len(eights)):
        left = eights[eight]
        while left:
            j = 8 * eight + first_byte(left)
            left &= left - np.uint64(1)  # its lowest 1, the only one of its byte
            if j < len(mask):
                mask[j] = np.uint8(_later(key, np.uint64(start + j)) < rest)


@compiled
def _later(key: Any, place: Any) -> Any:
    """24 bits more of an element: SplitMix64's output function at key and position."""
    mixed = (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(40)


@compiled
def _sum(mask: Any) -> int:
    total = np.int32(0)
    for j in range(len(mask)):
        total = np.int32(total + np.int32(mask[j]))
    return int(total)
