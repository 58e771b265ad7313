"""What a merge did to one tensor, measured on its chunks as they pass: drift, zero tensors, values that are not finite."""

import math
from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.merging.blocks import BLOCK
from biomistral.merging.floats import Float, widen
from biomistral.merging.fused.native import run, spare
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.rows import Rows, address

_WHOLE_UP_TO = 64
_STEP = 16
"""Tensors of more than 64 blocks (262,144 elements) are sampled: every 16th block. The drift of a matrix of 4 M elements is then
within 0.2 % of itself, and measuring it for three inputs costs 0.1 s of 1e9 elements instead of 1.2."""


class Account:
    """Of one tensor: how far it lies from each input, which of them are all zeros, whether every value is finite."""

    def __init__(self, task: PlannedTensor) -> None:
        self._task = task
        self._step = _STEP if task.numel > _WHOLE_UP_TO * BLOCK else 1
        self._sums: list[np.ndarray] = [np.empty((len(task.inputs), 0, 2), np.float32)]
        self._spare = spare(2)
        self._peaks: np.ndarray = np.zeros(1 + len(task.inputs), np.int64)

    def add(self, merged: np.ndarray, inputs: Rows, start: int, peaks: np.ndarray | None = None) -> None:
        """Take a chunk of the result and of every input, as they are stored; it starts at a multiple of `blocks.BLOCK`.

        ``peaks``: those of an `engine.Operator`.

        Raises:
            UserError: a value that is NaN or infinite, in an input or in the result.
        """
        task, count, dtype = self._task, len(merged), measured_in(self._task)
        if dtype is not task.dtype or dtype is not task.out_dtype:
            merged, inputs, peaks = widen(merged, task.out_dtype), Rows(widen(row, task.dtype) for row in inputs), None
        rows: np.ndarray = np.array([address(merged), *inputs.pointers], np.int64)
        if peaks is None:
            run("peaks", dtype, rows, len(rows), count, self._peaks)
        else:
            self._peaks = peaks
        if max(self._peaks.tolist()) >= Float.F32.infinity:
            self._refuse_not_finite(start, merged, inputs)
        first = -(start // BLOCK) % self._step
        sums: np.ndarray = np.empty((len(inputs), len(range(first, -(-count // BLOCK), self._step)), 2), np.float32)
        run("drift", dtype, rows, len(inputs), count, first, self._step, sums, sums.shape[1], self._spare)
        self._sums.append(sums)

    def facts(self) -> dict[str, Any]:
        """``drift``: relative L2, ``|result - input| / |input|``; None where it has no value. ``zero``: who is all zeros."""
        names, sums = [source.model for source in self._task.inputs], np.concatenate(self._sums, axis=1)
        drift = {name: _relative(*(math.fsum(column.tolist()) for column in rows.T))
                 for name, rows in zip(names, sums, strict=True)}
        zero = [name for name, high in zip(["result", *names], self._peaks, strict=True) if not high]
        return {"drift": drift} | ({"zero": zero} if zero else {})

    def _refuse_not_finite(self, start: int, merged: np.ndarray, inputs: Rows) -> None:
        """Say where the first value is that is NaN or infinite."""
        for source, row in zip(self._task.inputs, inputs, strict=True):
            if found := _first_not_finite(row):
                raise UserError(f"{source.stored.file}: tensor {source.tensor} holds {found[1]} at element {start + found[0]}; "
                                "this model is damaged, make or download it again")
        place, number = _first_not_finite(merged) or (0, math.nan)
        raise UserError(f"the merge gives {number} at element {start + place} of {self._task.name}: the weights in the merge "
                        f"file are too large for {self._task.out_dtype.value}")


def _first_not_finite(values: np.ndarray) -> tuple[int, float] | None:
    """The first place that holds NaN or an infinity, and which."""
    wide = widen(values, Float.BF16 if values.dtype == np.uint16 else Float.F32)
    places = np.flatnonzero(~np.isfinite(wide))
    return (int(places[0]), float(wide[places[0]])) if len(places) else None


def measured_in(task: PlannedTensor) -> Float:
    """The type that the measuring loops take a tensor in: they have one for result and inputs, and no float16."""
    return task.dtype if task.dtype is task.out_dtype and task.dtype is not Float.F16 else Float.F32


def _relative(moved: float, size: float) -> float | None:
    """None where the input is all zeros and the result is not, or the squares leave float32's range."""
    if not (math.isfinite(moved) and math.isfinite(size)):
        return None
    return 0.0 if moved == 0 else math.sqrt(moved / size) if size else None
