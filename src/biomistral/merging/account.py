"""What a merge did to one tensor, measured on its chunks as they pass: drift, zero tensors, values that are not finite."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from biomistral.errors import UserError
from biomistral.merging.kernels import BLOCK, infinity_of, peak
from biomistral.merging.planned import PlannedTensor

_WHOLE_UP_TO = 64
_STEP = 16
"""Tensors of more than 64 blocks (262,144 elements) are sampled: every 16th block. The drift of a matrix of 4 M elements is then
within 0.2 % of itself, and measuring it for three inputs costs 0.1 s of 1e9 elements instead of 1.2."""


class Account:
    """Of one tensor: how far it lies from each input, which of them are all zeros, whether every value is finite."""

    def __init__(self, task: PlannedTensor) -> None:
        self._task = task
        self._step = _STEP if task.numel > _WHOLE_UP_TO * BLOCK else 1
        self._moved: list[list[float]] = [[] for _ in task.inputs]
        self._size: list[list[float]] = [[] for _ in task.inputs]
        self._peaks = [0] * (1 + len(task.inputs))

    def add(self, merged: torch.Tensor, tensors: list[torch.Tensor], start: int) -> None:
        """Take a chunk of the result and of every input; it starts at a multiple of `kernels.BLOCK`.

        Raises:
            UserError: a value that is NaN or infinite, in an input or in the result.
        """
        peaks = [peak(values) for values in (merged, *tensors)]
        if any(high >= infinity_of(values.dtype) for high, values in zip(peaks, (merged, *tensors), strict=True)):
            _refuse_not_finite(self._task, start, merged, tensors)
        self._peaks = list(map(max, self._peaks, peaks))
        for result, *sources in zip(*(self._sampled(values, start) for values in (merged, *tensors)), strict=True):
            for number, source in enumerate(sources):
                moved = result - source
                self._moved[number] += np.vecdot(moved, moved).tolist()
                self._size[number] += np.vecdot(source, source).tolist()

    def _sampled(self, values: torch.Tensor, start: int) -> Iterator[np.ndarray]:
        """The blocks of a chunk that are measured, as float32 rows; the last, shorter one of a tensor by itself."""
        whole, first = len(values) // BLOCK * BLOCK, -(start // BLOCK) % self._step
        yield values[:whole].view(-1, BLOCK)[first::self._step].float().numpy()
        if whole < len(values) and (start + whole) // BLOCK % self._step == 0:
            yield values[whole:].float().numpy()[None]

    def facts(self) -> dict[str, Any]:
        """``drift``: relative L2, ``|result - input| / |input|``; None where it has no value. ``zero``: who is all zeros."""
        names = [source.model for source in self._task.inputs]
        drift = {name: _relative(math.fsum(moved), math.fsum(size))
                 for name, moved, size in zip(names, self._moved, self._size, strict=True)}
        zero = [name for name, high in zip(["result", *names], self._peaks, strict=True) if not high]
        return {"drift": drift} | ({"zero": zero} if zero else {})


def _relative(moved: float, size: float) -> float | None:
    """None where the input is all zeros and the result is not, or the squares leave float32's range."""
    if not (math.isfinite(moved) and math.isfinite(size)):
        return None
    return 0.0 if moved == 0 else math.sqrt(moved / size) if size else None


def _refuse_not_finite(task: PlannedTensor, start: int, merged: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    """Say where the first value is that is NaN or infinite."""
    for source, tensor in zip(task.inputs, tensors, strict=True):
        if len(places := (~torch.isfinite(tensor)).nonzero()):
            place = int(places[0])
            raise UserError(f"{source.stored.file}: tensor {source.tensor} holds {float(tensor[place])} at element "
                            f"{start + place}; this model is damaged, make or download it again")
    place = int((~torch.isfinite(merged)).nonzero()[0])
    raise UserError(f"the merge gives {float(merged[place])} at element {start + place} of {task.name}: the weights in the "
                    f"merge file are too large for {str(task.out_dtype).removeprefix('torch.')}")
