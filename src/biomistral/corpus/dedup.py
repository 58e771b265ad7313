"""Exact and near-duplicate documents: SHA-256 of the words, MinHash over 5-word shingles with banded look-up.

Broder 1997; 128 hashes in 16 bands of 8 find a pair of Jaccard similarity 0.8 with probability 0.95, of 0.9 with 1 - 1e-4.
"""

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from biomistral.corpus.shingles import Hashes, Words, ngrams

HASHES, BANDS, SHINGLE = 128, 16, 5
_ROWS = HASHES // BANDS
Signatures: TypeAlias = npt.NDArray[np.uint32]


def digest(words: Words) -> bytes:
    """What exact copies share: the words, whatever case, punctuation and white space."""
    return hashlib.sha256(words.hashes.astype("<u8").tobytes()).digest()[:16]


def signatures(documents: list[Words], seed: int) -> Signatures:
    """MinHash signatures, shape ``(documents, 128)``; a text shorter than a shingle is one shingle."""
    if not documents:
        return np.zeros((0, HASHES), np.uint32)
    shingles = [ngrams(words.hashes, min(SHINGLE, max(1, len(words)))) for words in documents]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in shingles])))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets.tolist(), HASHES, seed & 0x7FFFFFFF)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(documents), HASHES)


def copies(ids: list[str], digests: list[bytes], rank: npt.NDArray[np.int64]) -> dict[int, tuple[str, int]]:
    """Documents with the id or the words of a better one: index -> (reason, index of the better one).

    ``rank`` orders documents, best first: ``rank[0]`` is the index of the best.
    """
    found: dict[int, tuple[str, int]] = {}
    by_id: dict[str, int] = {}
    by_digest: dict[bytes, int] = {}
    for index in rank.tolist():
        if ids[index] in by_id:
            found[index] = ("duplicate_id", by_id[ids[index]])
        elif digests[index] in by_digest:
            found[index] = ("duplicate", by_digest[digests[index]])
        else:
            by_id[ids[index]] = by_digest[digests[index]] = index
    return found


def near_copies(matrix: Signatures, rank: npt.NDArray[np.int64], threshold: float) -> dict[int, tuple[int, float]]:
    """Documents similar to a better one that is kept: index -> (index of that one, estimated Jaccard similarity).

    Greedy from the best document down, so that a chain of small differences never joins documents that differ.
    ``rank`` names the rows that take part, best first.
    """
    keys = _shared_keys(matrix, rank)
    kept: dict[int, list[int]] = {}
    found: dict[int, tuple[int, float]] = {}
    for index in rank.tolist():
        mine = keys.get(index, [])
        candidates = sorted({other for key in mine for other in kept.get(key, [])})
        if candidates:
            similarity = (matrix[candidates] == matrix[index]).mean(axis=1)
            best = int(np.argmax(similarity))
            if similarity[best] >= threshold:
                found[index] = (candidates[best], float(similarity[best]))
                continue
        for key in mine:
            kept.setdefault(key, []).append(index)
    return found


def _shared_keys(matrix: Signatures, rank: npt.NDArray[np.int64]) -> dict[int, list[int]]:
    """The band keys of each document that at least one other shares; a document without one has no near copy."""
    keys: dict[int, list[int]] = {}
    for band in range(BANDS):
        hashed = _band_hashes(matrix[:, band * _ROWS:(band + 1) * _ROWS], band)[rank]
        _, inverse, counts = np.unique(hashed, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(counts[inverse] > 1)
        for index, key in zip(rank[shared].tolist(), hashed[shared].tolist(), strict=True):
            keys.setdefault(index, []).append(key)
    return keys


def _band_hashes(band: npt.NDArray[np.uint32], number: int) -> Hashes:
    """One hash of the eight values of each row, different from band to band."""
    values = np.concatenate((np.full((len(band), 1), number, np.uint64), band.astype(np.uint64)), axis=1)
    return _row_hashes(values)


def _row_hashes(values: npt.NDArray[np.uint64]) -> Hashes:
    """Polynomial hash of each row modulo 2**64."""
    total: Hashes = np.zeros(len(values), np.uint64)
    for column in values.T:
        total = total * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1)
        total ^= total >> np.uint64(29)
    return total
