"""Compiled measures of a chunk: its largest magnitude, how far it lies from the inputs, dot products of two rows."""

from typing import Any

from numba import carray

from biomistral.loops.steps import as_float32s, compiled, nothing, own_magnitude, value
from biomistral.merging.blocks import BLOCK


@compiled
def peaks(rows: Any, count: int, found: Any) -> int:
    """Raise ``found`` to the largest magnitude in every row, as a float32's bits."""
    for i in range(len(found)):
        raise_to_peak(found, i, carray(rows[i], count))
    return 0


@compiled
def raise_to_peak(found: Any, place: int, row: Any) -> None:
    """Raise one of the numbers found to the largest magnitude in a row."""
    high = nothing(row)
    for j in range(len(row)):
        high = max(high, own_magnitude(row[j]))
    found[place] = max(found[place], as_float32s(high))


@compiled
def drift(rows: Any, count: int, first: int, step: int, sums: Any, spare: Any) -> int:
    """Of every ``step``-th block from block ``first`` on and every input: sums of the squared difference from the result, the
    first row, and of the input's squares, into ``sums`` (inputs, blocks measured, 2)."""
    moved, squares, merged = spare[0], spare[1], carray(rows[0], count)
    for place in range(sums.shape[1]):
        start = (first + place * step) * BLOCK
        size = min(BLOCK, count - start)
        for i in range(len(sums)):
            clear(moved[size:])
            clear(squares[size:])
            _squares(merged[start:start + size], carray(rows[1 + i], count)[start:start + size], moved, squares)
            sums[i, place, 0] = fold(moved)
            sums[i, place, 1] = fold(squares)
    return 0


@compiled
def _squares(merged: Any, row: Any, moved: Any, squares: Any) -> None:
    for j in range(len(row)):
        source = value(row[j])
        difference = value(merged[j]) - source
        moved[j], squares[j] = difference * difference, source * source


@compiled
def fold(block: Any) -> Any:
    """The sum of a block of float32, which is overwritten: `blocks.halved`."""
    half = len(block) // 2
    while half:
        add(block[:half], block[half:2 * half])
        half //= 2
    return block[0]


@compiled
def clear(values: Any) -> None:
    for j in range(len(values)):
        values[j] = 0


@compiled
def copy(values: Any, others: Any) -> None:
    for j in range(len(values)):
        values[j] = others[j]


@compiled
def add(sums: Any, values: Any) -> None:
    for j in range(len(sums)):
        sums[j] += values[j]


@compiled
def block_dots(one: Any, other: Any, sums: Any, spare: Any) -> int:
    """Of every whole block of two rows: the sums of ``a * b``, ``a * a`` and ``b * b``, into ``sums`` (blocks, 3)."""
    ab, aa, bb = spare[0, :BLOCK // 8], spare[1, :BLOCK // 8], spare[2, :BLOCK // 8]
    for block in range(len(sums)):
        start, end = block * BLOCK, (block + 1) * BLOCK
        _products(one[start:end], other[start:end], ab, aa, bb)
        sums[block, 0] = fold(ab)
        sums[block, 1] = fold(aa)
        sums[block, 2] = fold(bb)
    return 0


@compiled
def _products(first: Any, second: Any, ab: Any, aa: Any, bb: Any) -> None:
    """The three products, halved three times."""
    n = len(ab)
    for j in range(n):
        a0, a1, a2, a3 = value(first[j]), value(first[j + n]), value(first[j + 2 * n]), value(first[j + 3 * n])
        a4, a5, a6, a7 = (value(first[j + 4 * n]), value(first[j + 5 * n]), value(first[j + 6 * n]), value(first[j + 7 * n]))
        b0, b1, b2, b3 = value(second[j]), value(second[j + n]), value(second[j + 2 * n]), value(second[j + 3 * n])
        b4, b5, b6, b7 = (value(second[j + 4 * n]), value(second[j + 5 * n]), value(second[j + 6 * n]),
                          value(second[j + 7 * n]))
        ab[j] = ((a0 * b0 + a4 * b4) + (a2 * b2 + a6 * b6)) + ((a1 * b1 + a5 * b5) + (a3 * b3 + a7 * b7))
        aa[j] = ((a0 * a0 + a4 * a4) + (a2 * a2 + a6 * a6)) + ((a1 * a1 + a5 * a5) + (a3 * a3 + a7 * a7))
        bb[j] = ((b0 * b0 + b4 * b4) + (b2 * b2 + b6 * b6)) + ((b1 * b1 + b5 * b5) + (b3 * b3 + b7 * b7))
