"""Compiled steps between the products of a layer: each reads and writes its rows once and rounds once, to bfloat16 at its end."""

from typing import Any

import numpy as np

from biomistral.loops.steps import compiled, power_of_two, reciprocal, reducing, rounded, square_root, stored, value


@compiled
def normalise(rows: Any, addend: Any, gain: Any, epsilon: Any, out: Any, spare: Any) -> None:
    """RMS norm of every row (n, width) times a float32 gain (width); ``addend``, if there is any, is added to the rows first,
    which keep the sum."""
    width = len(gain)
    for start in range(0, len(rows), width):
        row = rows[start:start + width]
        if len(addend):
            _add(row, addend[start:start + width])
        _widen(row, spare)
        mean = _squares(spare[:width]) / np.float32(width)
        _scale(spare, np.float32(1) / square_root(mean + epsilon), gain, out[start:start + width])


@compiled
def _add(row: Any, addend: Any) -> None:
    for j in range(len(row)):
        row[j] = stored(rounded(value(row[j]) + value(addend[j]), row[j]), row[j])


@compiled
def _widen(row: Any, spare: Any) -> None:
    for j in range(len(row)):
        spare[j] = value(row[j])


@reducing
def _squares(row: Any) -> Any:
    total = np.float32(0)
    for j in range(len(row)):
        total += row[j] * row[j]
    return total


@compiled
def _scale(spare: Any, factor: Any, gain: Any, out: Any) -> None:
    for j in range(len(out)):
        out[j] = stored(rounded(spare[j] * factor * gain[j], out[j]), out[j])


@compiled
def gate(both: Any, width: int, kind: int, out: Any) -> None:
    """act(first half) * second half of every row (n, 2 * width); ``kind`` 0 is SiLU, 1 GELU by tanh."""
    for row in range(len(out) // width):
        first, second = both[2 * row * width:(2 * row + 1) * width], both[(2 * row + 1) * width:(2 * row + 2) * width]
        if kind == 0:
            _silu(first, second, out[row * width:(row + 1) * width])
        else:
            _gelu(first, second, out[row * width:(row + 1) * width])


@compiled
def _silu(first: Any, second: Any, out: Any) -> None:
    for j in range(len(out)):
        x = value(first[j])
        out[j] = stored(rounded(x * _sigmoid(x) * value(second[j]), out[j]), out[j])


@compiled
def _gelu(first: Any, second: Any, out: Any) -> None:
    """x * (1 + tanh(y)) / 2 with y = sqrt(2 / pi) * (x + 0.044715 * x**3): x * sigmoid(2 * y)."""
    for j in range(len(out)):
        x = value(first[j])
        inner = np.float32(1.5957691216057308) * (x + np.float32(0.044715) * x * x * x)
        out[j] = stored(rounded(x * _sigmoid(inner) * value(second[j]), out[j]), out[j])


@compiled
def _sigmoid(x: Any) -> Any:
    return reciprocal(np.float32(1) + power_of_two(min(x * np.float32(-1.4426950408889634), np.float32(126))))


@compiled
def turn(heads: Any, width: int, cosines: Any, sines: Any, gain: Any, epsilon: Any, out: Any, spare: Any) -> None:
    """The heads (n, width) of one token, normalised if there is a gain, then turned by its position: rotary embedding of the
    first ``len(cosines)`` values of each, halves against one another."""
    for start in range(0, len(heads), width):
        if len(gain):
            _widen(heads[start:start + width], spare)
            mean = _squares(spare[:width]) / np.float32(width)
            _scale(spare, np.float32(1) / square_root(mean + epsilon), gain, out[start:start + width])
            _rotate(out[start:start + width], cosines, sines, out[start:start + width])
        else:
            _rotate(heads[start:start + width], cosines, sines, out[start:start + width])


@compiled
def _rotate(head: Any, cosines: Any, sines: Any, out: Any) -> None:
    half = len(cosines) // 2
    for j in range(half):
        low, high = value(head[j]), value(head[half + j])
        out[j] = stored(rounded(low * cosines[j] - high * sines[j], out[j]), out[j])
        out[half + j] = stored(rounded(high * cosines[half + j] + low * sines[half + j], out[j]), out[j])
    for j in range(2 * half, len(head)):
        out[j] = head[j]


@compiled
def copy(values: Any, out: Any) -> None:
    for j in range(len(out)):
        out[j] = values[j]
