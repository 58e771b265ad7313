"""Words of a text as 64-bit hashes and the n-grams over them, for de-duplication and decontamination.

A word is a maximal run of letters and digits, case folded, or one ideograph (those languages write no spaces).
All is numpy arithmetic on code points: no Python loop over words, whose 5-word shingles alone cap at 11 MB/s.
"""

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
Offsets: TypeAlias = npt.NDArray[np.int64]

_LETTER_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_WORD_BASE = 0xD1342543DE82EF95
_MASK = (1 << 64) - 1


@cache
def _tables() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """Per code point: its folded letter (0 if it is no part of a word), and whether it is a word by itself."""
    fold: npt.NDArray[np.uint32] = np.zeros(0x30000, np.uint32)
    for code in range(len(fold)):
        character = chr(code)
        if character.isalnum():
            lower = character.lower()
            fold[code] = ord(lower) if len(lower) == 1 else code
    ideograph: npt.NDArray[np.bool_] = np.zeros(len(fold), np.bool_)
    for low, high in ((0x2E80, 0x2FE0), (0x3040, 0x3100), (0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x30000)):
        ideograph[low:high] = fold[low:high] > 0
    return fold, ideograph


def _powers(base: int, count: int) -> Hashes:
    """base**0 ... base**(count-1) modulo 2**64."""
    powers: Hashes = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


@dataclass(frozen=True)
class Words:
    """Hash, start and end (character offsets) of every word of a text; each array has shape ``(words,)``."""

    hashes: Hashes
    starts: Offsets
    ends: Offsets

    def __len__(self) -> int:
        return len(self.hashes)


def words_of(text: str) -> Words:
    """The words of a text, in order."""
    fold, ideograph = _tables()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, len(fold) - 1)
    letters = fold[codes]
    inside = letters > 0
    alone = ideograph[codes]
    before = np.concatenate(([False], inside[:-1] & ~alone[:-1]))
    after = np.concatenate((inside[1:] & ~alone[1:], [False]))
    starts = np.flatnonzero(inside & (alone | ~before))
    ends: Offsets = np.flatnonzero(inside & (alone | ~after)) + 1
    return Words(_spans(letters.astype(np.uint64), starts, ends, _LETTER_BASE), starts, ends)


def ngrams(words: Hashes, size: int) -> Hashes:
    """Hash of every run of ``size`` words, shape ``(words - size + 1,)``; empty if there are fewer words."""
    starts: Offsets = np.arange(max(0, len(words) - size + 1), dtype=np.int64)
    return _spans(words, starts, starts + size, _WORD_BASE)


def _spans(values: Hashes, starts: Offsets, ends: Offsets, base: int) -> Hashes:
    """Polynomial hash of ``values[start:end]`` for every span, from one prefix sum modulo 2**64, then mixed.

    The prefix sum weighs position i by base**i; dividing by base**start makes the hash free of where the span lies.
    The length enters the mix, and so do all bits: a polynomial modulo a power of two is weak in its low bits.
    """
    prefix: Hashes = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(base, len(values)), out=prefix[1:])
    inverse = _powers(pow(base, -1, 1 << 64), len(values) + 1)
    hashes = (prefix[ends] - prefix[starts]) * inverse[starts] + (ends - starts).astype(np.uint64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor & _MASK)
    return hashes ^ (hashes >> np.uint64(33))
