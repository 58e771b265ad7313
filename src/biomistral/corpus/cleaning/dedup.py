"""Exact and near-duplicate documents: SHA-256 of the words, MinHash over 5-word shingles with banded look-up.

Broder 1997. 112 hashes in 14 bands of 8 (those of FineWeb, Penedo et al. 2024): two documents of Jaccard similarity s share a
band with probability 1 - (1 - s**8)**14: 0.92 at 0.8, 0.98 at 0.85, 1 - 4e-4 at 0.9. What shares a band is verified on all
112 hashes, whose estimate has a standard error of sqrt(s (1 - s) / 112): 0.038 at 0.8.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from biomistral.corpus.cleaning.shingles import Hashes, Words, ngrams

BANDS, ROWS, SHINGLE = 14, 8, 5
HASHES = BANDS * ROWS
_LEADERS = 64
_NONE = -1
Signatures: TypeAlias = npt.NDArray[np.uint32]
Indices: TypeAlias = npt.NDArray[np.int64]


def digest(words: Words) -> bytes:
    """What exact copies share: the words, whatever case, punctuation and white space."""
    return hashlib.sha256(words.hashes.astype("<u8").tobytes()).digest()[:16]


def signatures(documents: list[Words], seed: int) -> Signatures:
    """MinHash signatures, shape ``(documents, 112)``; a text shorter than a shingle is one shingle."""
    if not documents:
        return np.zeros((0, HASHES), np.uint32)
    shingles = [ngrams(words.hashes, min(SHINGLE, max(1, len(words)))) for words in documents]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in shingles])))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets.tolist(), HASHES, seed & 0x7FFFFFFF)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(documents), HASHES)


@dataclass(frozen=True)
class Copies:
    """Documents refused: each a copy of a better one, ``similarity`` estimated; all three of one length, worst last."""

    documents: Indices
    better: Indices
    similarity: npt.NDArray[np.float32]


def best_of_equals(names: npt.NDArray[np.int32], contents: npt.NDArray[np.int32], rank: Indices) -> tuple[Copies, Copies]:
    """Documents with the name, and others with the content, of a better one that is kept.

    ``names`` and ``contents`` number what is equal; ``rank`` names the documents that take part, best first. Only those that
    share something are looked at one by one.
    """
    shared = _shared(names[rank]) | _shared(contents[rank])
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    by_name: dict[int, int] = {}
    by_content: dict[int, int] = {}
    some = rank[shared]
    for index, name, content in zip(some.tolist(), names[some].tolist(), contents[some].tolist(), strict=True):
        if name in by_name:
            found[0].append((index, by_name[name]))
        elif content in by_content:
            found[1].append((index, by_content[content]))
        else:
            by_name[name] = by_content[content] = index
    return _equals(found[0]), _equals(found[1])


def _equals(pairs: list[tuple[int, int]]) -> Copies:
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return Copies(both[:, 0], both[:, 1], np.ones(len(both), np.float32))


def _shared(values: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which values occur more than once; they are numbers from 0 on."""
    return np.asarray(np.bincount(values)[values] > 1)


def band_keys(matrix: Signatures) -> Hashes:
    """One hash of each band's eight values, shape ``(14, documents)``."""
    keys: Hashes = np.zeros((BANDS, len(matrix)), np.uint64)
    bands = matrix.reshape(len(matrix), BANDS, ROWS)
    for row in range(ROWS):
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys += bands[:, :, row].T
        keys ^= keys >> np.uint64(29)
    return keys


def near_copies(matrix: Signatures, keys: Hashes, rank: Indices, threshold: float) -> Copies:
    """Documents similar to a better one that is kept, from the ``threshold`` on.

    Greedy from the best document down, so that a chain of small differences never joins documents that differ. Each is
    compared with at most the 64 last kept of each bucket (documents that share a band), its neighbours in rank: a hundred
    thousand with the same boilerplate cost 64 comparisons each, and true copies differ little in length.

    Args:
        matrix: signatures, shape ``(documents, 112)``, memory-mapped if large; only documents that share a band are read.
        keys: their `band_keys`.
        rank: the documents that take part, best first.
    """
    buckets, sizes = _buckets(keys, rank)
    some = np.flatnonzero((buckets != _NONE).any(axis=1))
    room: Indices = np.minimum(sizes - 1, _LEADERS)
    first: Indices = np.cumsum(room) - room
    start, limit, kept = memoryview(first), memoryview(room), memoryview(np.zeros_like(room))
    leaders: Indices = np.zeros(int(room.sum()), np.int64)
    found: list[tuple[int, int, float]] = []
    for document, mine in zip(rank[some].tolist(), buckets[some], strict=True):
        bands = mine[mine != _NONE].tolist()
        held = [leaders[start[band]:start[band] + min(kept[band], limit[band])] for band in bands if kept[band]]
        if held:
            better, similarity = _most_similar(matrix, document, np.unique(np.concatenate(held)))
            if similarity >= threshold:
                found.append((document, better, similarity))
                continue
        for band in bands:
            leaders[start[band] + kept[band] % limit[band]] = document
            kept[band] += 1
    documents, better_ones, similarities = zip(*found, strict=True) if found else ((), (), ())
    return Copies(np.array(documents, np.int64), np.array(better_ones, np.int64), np.array(similarities, np.float32))


def _most_similar(matrix: Signatures, document: int, others: Indices) -> tuple[int, float]:
    """The first of the most similar documents, and its similarity."""
    equal = np.count_nonzero(matrix[others] == matrix[document], axis=1)
    best = int(np.argmax(equal))
    return int(others[best]), float(equal[best]) / HASHES


def _buckets(keys: Hashes, rank: Indices) -> tuple[npt.NDArray[np.int32], Indices]:
    """For each ranked document and band the number of its bucket, -1 where it is alone; and the size of each bucket."""
    buckets: npt.NDArray[np.int32] = np.full((len(rank), BANDS), _NONE, np.int32)
    sizes: list[Indices] = []
    before = 0
    for band in range(BANDS):
        mine = keys[band][rank]
        order = np.argsort(mine)
        mine = mine[order]
        starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(mine)), np.bool_), mine[1:] != mine[:-1])))
        counts = np.diff(starts, append=len(mine))
        several = counts > 1
        numbers = np.where(several, np.cumsum(several) - 1 + before, _NONE).astype(np.int32)
        buckets[order, band] = np.repeat(numbers, counts)
        sizes.append(counts[several])
        before += int(several.sum())
    return buckets, np.concatenate(sizes)
