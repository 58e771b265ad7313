"""Compiled thinning of a task vector, the other row minus the base's: what stays, and the sums that say how it is rescaled."""

from typing import Any

import numpy as np

from biomistral.loops.steps import compiled, magnitude, rounded, value
from biomistral.merging.blocks import BLOCK
from biomistral.merging.fused.measures import clear, fold
from biomistral.merging.fused.sums import TILE


@compiled
def subtract(vector: Any, row: Any, base: Any) -> None:
    for j in range(len(vector)):
        vector[j] = rounded(value(row[j]) - value(base[j]), row[j])


@compiled
def histogram(row: Any, base: Any, above: int, counts: Any, spare: Any) -> int:
    """Count a task vector's magnitudes: ``above`` negative, all of them by their upper 15 bits (bfloat16's whole magnitude);
    else the lower 16 of those whose upper ones are ``above``. ``counts`` (2, bins) are to be added up: two tables, so that equal
    neighbours do not wait for one another."""
    for start in range(0, len(row), TILE):
        end = min(start + TILE, len(row))
        vector = spare[0, :end - start]
        subtract(vector, row[start:end], base[start:end])
        half = len(vector) // 2
        _count(vector[:half], above, counts[0])
        _count(vector[half:], above, counts[1])
    return 0


@compiled
def _count(vector: Any, above: int, counts: Any) -> None:
    if above < 0:
        for j in range(len(vector)):
            counts[np.uint64(magnitude(vector[j]) >> 16)] += 1
    else:
        for j in range(len(vector)):
            if magnitude(vector[j]) >> 16 == above:
                counts[np.uint64(magnitude(vector[j]) & 0xFFFF)] += 1


@compiled
def norms(row: Any, base: Any, threshold: int, ties: Any, mask: Any, sums: Any, spare: Any) -> int:
    """Of every block of a task vector the sum of its magnitudes, and of those that stay (`weigh`), into ``sums`` (blocks, 2)."""
    one = np.float32(1)
    for block in range(len(sums)):
        start = block * BLOCK
        end = min(start + BLOCK, len(row))
        size = end - start
        whole, stays = spare[0], spare[1]
        if len(mask):
            if size == BLOCK:
                whole, stays = whole[:BLOCK // 8], stays[:BLOCK // 8]
                _masked_eighth(whole, stays, row[start:end], base[start:end], mask[start:end])
            else:
                _masked_sizes(whole[:size], stays[:size], row[start:end], base[start:end], mask[start:end])
                clear(whole[size:])
                clear(stays[size:])
        else:
            _weigh_all(whole[:size], row[start:end], base[start:end], one, one)
            weigh(stays[:size], row[start:end], base[start:end], threshold, ties, mask, one, one)
            clear(whole[size:])
            clear(stays[size:])
            _make_positive(whole)
            _make_positive(stays)
        sums[block, 0] = fold(whole)
        sums[block, 1] = fold(stays)
    return 0


@compiled
def _size(row: Any, base: Any) -> Any:
    return abs(rounded(value(row) - value(base), row))


@compiled
def _masked_sizes(whole: Any, stays: Any, row: Any, base: Any, mask: Any) -> None:
    for j in range(len(row)):
        whole[j] = _size(row[j], base[j])
        stays[j] = whole[j] if mask[j] else np.float32(0)


@compiled
def _masked_eighth(whole: Any, stays: Any, row: Any, base: Any, mask: Any) -> None:
    """A whole block's magnitudes, halved three times."""
    n, none = len(whole), np.float32(0)
    for j in range(n):
        a0, a1, a2, a3 = (_size(row[j], base[j]), _size(row[j + n], base[j + n]), _size(row[j + 2 * n], base[j + 2 * n]),
                          _size(row[j + 3 * n], base[j + 3 * n]))
        a4, a5, a6, a7 = (_size(row[j + 4 * n], base[j + 4 * n]), _size(row[j + 5 * n], base[j + 5 * n]),
                          _size(row[j + 6 * n], base[j + 6 * n]), _size(row[j + 7 * n], base[j + 7 * n]))
        whole[j] = ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))
        b0, b1, b2, b3 = (a0 if mask[j] else none, a1 if mask[j + n] else none, a2 if mask[j + 2 * n] else none,
                          a3 if mask[j + 3 * n] else none)
        b4, b5, b6, b7 = (a4 if mask[j + 4 * n] else none, a5 if mask[j + 5 * n] else none, a6 if mask[j + 6 * n] else none,
                          a7 if mask[j + 7 * n] else none)
        stays[j] = ((b0 + b4) + (b2 + b6)) + ((b1 + b5) + (b3 + b7))


@compiled
def _make_positive(values: Any) -> None:
    for j in range(len(values)):
        values[j] = abs(values[j])


@compiled
def weigh(vector: Any, row: Any, base: Any, threshold: int, ties: Any, mask: Any, scale: Any, weight: Any) -> None:
    """A task vector times its scale and its weight, 0 where it is thinned out.

    With a mask of 0 and 1 those stay where it is 1, with a threshold that is not negative the magnitudes above it and the next
    ``ties[0]`` that are equal to it, else all.
    """
    if len(mask):
        _weigh_masked(vector, row, base, mask, scale, weight)
    elif threshold < 0:
        _weigh_all(vector, row, base, scale, weight)
    elif ties[0]:
        equal = _weigh_from(vector, row, base, np.int32(threshold), np.int32(threshold), scale, weight)
        if equal <= ties[0]:
            ties[0] -= equal
        else:  # once a tensor: the last that stays is among these
            _weigh_first_ties(vector, row, base, threshold, ties, scale, weight)
    else:
        _weigh_from(vector, row, base, np.int32(threshold + 1), np.int32(threshold), scale, weight)


@compiled
def _weigh_all(vector: Any, row: Any, base: Any, scale: Any, weight: Any) -> None:
    for j in range(len(vector)):
        moved = rounded(value(row[j]) - value(base[j]), row[j])
        if scale != 1:
            moved = rounded(moved * scale, row[j])
        vector[j] = rounded(moved * weight, row[j])


@compiled
def _weigh_masked(vector: Any, row: Any, base: Any, mask: Any, scale: Any, weight: Any) -> None:
    for j in range(len(vector)):
        moved = rounded(value(row[j]) - value(base[j]), row[j])
        moved = moved if mask[j] else np.float32(0)
        if scale != 1:
            moved = rounded(moved * scale, row[j])
        vector[j] = rounded(moved * weight, row[j])


@compiled
def _weigh_from(vector: Any, row: Any, base: Any, low: Any, threshold: Any, scale: Any, weight: Any) -> int:
    """Magnitudes from ``low`` on stay; returns how many are equal to ``threshold``."""
    equal = np.int32(0)
    for j in range(len(vector)):
        moved = rounded(value(row[j]) - value(base[j]), row[j])
        size = magnitude(moved)
        equal = np.int32(equal + np.int32(size == threshold))
        moved = moved if size >= low else np.float32(0)
        if scale != 1:
            moved = rounded(moved * scale, row[j])
        vector[j] = rounded(moved * weight, row[j])
    return int(equal)


@compiled
def _weigh_first_ties(vector: Any, row: Any, base: Any, threshold: int, ties: Any, scale: Any, weight: Any) -> None:
    for j in range(len(vector)):
        moved = rounded(value(row[j]) - value(base[j]), row[j])
        size = magnitude(moved)
        keeps = size > threshold or (size == threshold and ties[0] > 0)
        ties[0] -= keeps and size == threshold
        vector[j] = rounded(rounded((moved if keeps else np.float32(0)) * scale, row[j]) * weight, row[j])
