"""A random number a document, made of the seed and its id alone: no order of reading, and no other document, changes it."""

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from biomistral.seeds import seed

Draws: TypeAlias = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # of MurmurHash3's 64-bit finaliser
_LONGEST = 64
_SHIFT = np.uint64(33)


def draws(chunks: Iterable[list[str]], root_seed: int, purpose: str) -> Draws:
    """Uniform over 0 ... 2**64 - 1, one for each id; the ids come in lists, so that few are in memory at once."""
    start = np.uint64(seed(root_seed, purpose))
    found = [_hashed(names, start) for names in chunks if names]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _hashed(names: list[str], start: np.uint64) -> Draws:
    """Hash of each name's UTF-8, eight bytes at a time; padding to the longest name changes nothing."""
    encoded = [_short(name.encode("utf-8", "surrogatepass")) for name in names]
    lengths = np.array([len(name) for name in encoded], np.uint64)
    width = -(-max(1, int(lengths.max())) // 8)
    words = np.array(encoded, f"S{8 * width}").view("<u8").reshape(len(names), width).astype(np.uint64)
    hashes = _mixed(lengths ^ start)
    for column in range(width):
        inside = lengths > 8 * column
        hashes[inside] = _mixed(hashes[inside] ^ words[inside, column])
    return hashes


def _short(name: bytes) -> bytes:
    """Names of more than 64 bytes by their digest: one of a megabyte would widen the table of all."""
    return name if len(name) <= _LONGEST else hashlib.sha256(name).digest()


def _mixed(values: Draws) -> Draws:
    for multiplier in _MULTIPLIERS:
        values = (values ^ (values >> _SHIFT)) * multiplier
    return values ^ (values >> _SHIFT)
