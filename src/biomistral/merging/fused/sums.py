"""Compiled weighted sums: linear and slerp, in float32 and rounded once, as in `methods`."""

from typing import Any

from numba import carray

from biomistral.merging.fused.steps import compiled, fma, rounded, stored, value

TILE = 1024
"""Elements whose sums stay in the first-level cache while row after row is added."""


@compiled
def linear(rows: Any, weights: Any, divisor: Any, merged: Any, spare: Any) -> int:
    """`methods.linear`; float32 ``weights``, and what their sum is divided by."""
    for start in range(0, len(merged), TILE):
        end = min(start + TILE, len(merged))
        tile = spare[0, :end - start]
        _set_scaled(tile, carray(rows[0], end)[start:], weights[0])
        for i in range(1, len(weights)):
            _add_scaled(tile, carray(rows[i], end)[start:], weights[i])
        if divisor != 1:
            divide(tile, divisor)
        _store(tile, merged[start:end])
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
def interpolate(first: Any, second: Any, by_first: Any, by_second: Any, merged: Any) -> int:
    """`methods.interpolate` between the ends; float32 coefficients."""
    for j in range(len(merged)):
        both = value(first[j]) * by_first + value(second[j]) * by_second
        merged[j] = stored(rounded(both, merged[j]), merged[j])
    return 0
