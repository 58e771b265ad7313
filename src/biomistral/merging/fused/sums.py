"""Compiled weighted sums: linear and slerp, in float32 and rounded once, as in `methods`."""

from typing import Any

from numba import carray

from biomistral.loops.steps import compiled, fma, rounded, stored, value
from biomistral.merging.fused.measures import raise_to_peak

TILE = 1024
"""Elements whose sums stay in the first-level cache while row after row is added."""


@compiled
def linear(rows: Any, weights: Any, divisor: Any, merged: Any, peaks: Any, spare: Any) -> int:
    """`methods.linear`; float32 ``weights``, and what their sum is divided by; ``peaks`` of result and rows are raised."""
    for start in range(0, len(merged), TILE):
        end = min(start + TILE, len(merged))
        tile = spare[0, :end - start]
        for i in range(len(weights)):
            row = carray(rows[i], end)[start:]
            if i == 0:
                _set_scaled(tile, row, weights[0])
            else:
                _add_scaled(tile, row, weights[i])
            raise_to_peak(peaks, 1 + i, row)
        if divisor != 1:
            divide(tile, divisor)
        _store(tile, merged[start:end])
        raise_to_peak(peaks, 0, merged[start:end])
    return 0


@compiled
def _set_scaled(sums: Any, row: Any, weight: Any) -> None:
    for j in range(len(sums)):
        sums[j] = value(row[j]) * weight


@compiled
def _add_scaled(sums: Any, row: Any, weight: Any) -> None:
    for j in range(len(sums)):
        sums[j] = fma(value(row[j]), weight, sums[j])


@compiled
def divide(sums: Any, divisor: Any) -> None:
    for j in range(len(sums)):
        sums[j] /= divisor


@compiled
def _store(sums: Any, merged: Any) -> None:
    for j in range(len(sums)):
        merged[j] = stored(rounded(sums[j], merged[j]), merged[j])


@compiled
def interpolate(rows: Any, by_first: Any, by_second: Any, merged: Any, peaks: Any) -> int:
    """`methods.interpolate` between the ends; float32 coefficients."""
    for start in range(0, len(merged), TILE):
        end = min(start + TILE, len(merged))
        first, second = carray(rows[0], end)[start:], carray(rows[1], end)[start:]
        _mix(first, second, by_first, by_second, merged[start:end])
        raise_to_peak(peaks, 0, merged[start:end])
        raise_to_peak(peaks, 1, first)
        raise_to_peak(peaks, 2, second)
    return 0


@compiled
def _mix(first: Any, second: Any, by_first: Any, by_second: Any, merged: Any) -> None:
    for j in range(len(merged)):
        both = value(first[j]) * by_first + value(second[j]) * by_second
        merged[j] = stored(rounded(both, merged[j]), merged[j])
