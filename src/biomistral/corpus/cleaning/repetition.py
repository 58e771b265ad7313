"""How much a text repeats itself: the measures of Gopher (Rae et al. 2021, table A1), as shares of words instead of characters.

Sequences of words are compared by rolling 64-bit hashes; words are what ``shingles`` takes for words, in any script.
"""

import numpy as np
import numpy.typing as npt

from biomistral.corpus.cleaning.shingles import Hashes

_ODD = np.uint64(0x9E3779B97F4A7C15)
_BUCKETS = 1 << 12


def repeated(items: list[str]) -> tuple[float, float]:
    """Shares of the items, and of their characters, that are copies of an earlier item."""
    different = set(items)
    if len(different) == len(items):
        return 0.0, 0.0
    characters = sum(map(len, items))
    return 1 - len(different) / len(items), 1 - sum(map(len, different)) / max(1, characters)


def top_ngrams(words: Hashes, sizes: range, most: list[float]) -> tuple[int, float] | None:
    """The first size whose most frequent sequence covers more than its share of the words: (size, share); None: no such.

    A sequence is no more frequent than its first two words, whose count is bounded cheaply: few texts are looked at closely.
    """
    if len(words) < sizes.start:
        return None
    pairs = _joined(words[:-1], words[1:])
    bound = int(np.bincount((pairs >> np.uint64(52)).astype(np.int64), minlength=_BUCKETS).max())
    grams, length = pairs, 2
    for size, limit in zip(sizes, most, strict=True):
        while length < size:
            grams, length = _joined(grams[:-1], words[length:]), length + 1
        if bound * size > limit * len(words):
            share = size * _most_frequent(grams) / len(words)
            if share > limit:
                return size, share
    return None


def _most_frequent(grams: Hashes) -> int:
    ordered = np.sort(grams)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    count = int(np.diff(starts, append=len(ordered)).max(initial=0))
    return count if count > 1 else 0  # what occurs once repeats nothing


def repeated_ngrams(words: Hashes, sizes: range, most: list[float]) -> tuple[int, float] | None:
    """The first size whose repeated sequences cover more than its share of the words: (size, share); None: no such.

    A sequence repeats only if the shorter ones in it do, so each size is looked for where the one before was found.
    """
    size = sizes.start
    places = _repeating(_rolled(words, size))
    for size, limit in zip(sizes, most, strict=True):
        if size > sizes.start:
            places = places[:-1][places[1:] == places[:-1] + 1]
            places = places[_repeating(_rolled_at(words, places, size))]
        share = _covered(places, size) / max(1, len(words))
        if share > limit:
            return size, share
        if share <= min(most):  # longer ones cover less
            return None
    return None


def _joined(first: Hashes, second: Hashes) -> Hashes:
    joined = first[:len(second)] * _ODD
    joined += second
    return joined


def _rolled(words: Hashes, size: int) -> Hashes:
    """Hash of every run of ``size`` words, shape ``(words - size + 1,)``."""
    grams = words
    for length in range(1, size):
        grams = _joined(grams[:-1], words[length:])
    return grams if len(words) >= size else grams[:0]


def _rolled_at(words: Hashes, places: npt.NDArray[np.int64], size: int) -> Hashes:
    grams = words[places]
    for offset in range(1, size):
        grams = _joined(grams, words[places + offset])
    return grams


def _repeating(grams: Hashes) -> npt.NDArray[np.int64]:
    """Where hashes stand that stand elsewhere too, in order.

    The place lies in the low bits of what is sorted: one sort of 6,000 numbers takes half the time of an argsort. At least
    44 bits of the hash are left for texts of up to a million words: one false pair in a million such texts.
    """
    bits = np.uint64(max(1, len(grams)).bit_length())
    keys = (grams >> bits) << bits
    keys |= np.arange(len(grams), dtype=np.uint64)
    keys.sort()
    equal = (keys[1:] >> bits) == (keys[:-1] >> bits)
    members: npt.NDArray[np.bool_] = np.zeros(len(keys), np.bool_)
    members[:-1] |= equal
    members[1:] |= equal
    found = (keys[members] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    found.sort()
    return found


def _covered(places: npt.NDArray[np.int64], size: int) -> int:
    """Words in runs of ``size`` that start at the places; a word in several counts once."""
    return int(np.minimum(np.diff(places), size).sum()) + size if len(places) else 0
