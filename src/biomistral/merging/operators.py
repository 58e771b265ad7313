"""Merge methods over a tensor that comes in chunks: readings that gather statistics, then one that gives the result.

Every operator reads the chunks from first to last, ``passes`` times with `observe`, then once with `apply`. Chunks start
at multiples of `methods.BLOCK`; where they are cut changes no bit of the result.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch

from biomistral.merging import methods
from biomistral.merging.parameters import METHODS
from biomistral.merging.plan import PlannedTensor
from biomistral.seeds import seed


class Operator(Protocol):
    """One method at work on one tensor. Inputs come base first where the method has a base."""

    passes: int

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None: ...

    def settle(self, number: int) -> None: ...

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor: ...

    def facts(self) -> dict[str, Any]: ...


class Elementwise:
    """linear and passthrough: nothing to know beforehand."""

    passes = 0

    def __init__(self, task: PlannedTensor) -> None:
        self._task = task

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        settings = [source.parameters for source in self._task.inputs]
        if self._task.method == "passthrough":
            return methods.scaled(tensors[0], settings[0]["scale"])
        return methods.linear(tensors, [values["weight"] for values in settings], self._task.parameters["normalize"])

    def facts(self) -> dict[str, Any]:
        return {}


class Slerp:
    """Norms and dot product first, then the interpolation."""

    passes = 1

    def __init__(self, task: PlannedTensor) -> None:
        self._t = float(task.parameters["t"])
        self._sums: list[list[float]] = [[], [], []]

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        a, b = (tensor.float() for tensor in tensors)
        for sums, product in zip(self._sums, (a * b, a * a, b * b), strict=True):
            sums.extend(methods.block_sums(product))

    def settle(self, number: int) -> None:
        dot, squares_a, squares_b = map(math.fsum, self._sums)
        self._by = methods.slerp_coefficients(self._t, dot, math.sqrt(squares_a), math.sqrt(squares_b))

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        return methods.interpolate(tensors[0], tensors[1], self._by)

    def facts(self) -> dict[str, Any]:
        return {"branch": self._by.branch, "cosine": self._by.cosine, "t": self._t}


class Whole:
    """A task vector that is kept whole; the other two below thin theirs."""

    passes = 0

    def __init__(self, dtype: torch.dtype, numel: int) -> None:
        self.dtype, self.numel, self.kept = dtype, numel, 0

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, delta: torch.Tensor, start: int) -> None:
        """Thin and rescale the task vector in place."""
        self.kept += delta.numel()


class Thinned(Whole):
    """What trimming and dropping share: a mask, and a rescale that may need a reading of its own.

    ``scale`` None asks for mergekit's L1 rescale.
    """

    selecting = 0

    def __init__(self, dtype: torch.dtype, numel: int, scale: float | None) -> None:
        super().__init__(dtype, numel)
        self.passes = self.selecting + (scale is None)
        self._scale = 1.0 if scale is None else scale
        self.norm_dtype = dtype
        self._before: list[float] = []
        self._after: list[float] = []

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        raise AssertionError("each kind has its own")

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        magnitudes = delta.abs()
        self._before.extend(methods.block_sums(magnitudes))
        self._after.extend(methods.block_sums(magnitudes.mul_(self.mask(delta, start))))

    def settle(self, number: int) -> None:
        self._scale = methods.l1_rescale(math.fsum(self._before), math.fsum(self._after), self.norm_dtype)

    def apply(self, delta: torch.Tensor, start: int) -> None:
        mask = self.mask(delta, start)
        self.kept += int(mask.sum())
        delta.mul_(mask)
        if self._scale != 1:
            delta.mul_(self._scale)


class Trim(Thinned):
    """TIES: the k largest magnitudes, found exactly by radix selection.

    A histogram of the upper 15 bits of the magnitude is enough for 16-bit types; float32 takes a second one of the lower 16.
    Elements equal to the threshold are kept from the first on, until there are k.
    """

    def __init__(self, dtype: torch.dtype, numel: int, scale: float | None, density: float) -> None:
        self.selecting = 2 if dtype == torch.float32 else 1
        super().__init__(dtype, numel, scale)
        self._rank = methods.num_kept(density, numel)
        self._shift = 16 * (self.selecting - 1)
        self._threshold, self._ties_left = 0, 0
        self._counts: Any = np.zeros(1 << 15, np.int64)

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        if number >= self.selecting:
            return super().observe(number, delta, start)
        bits = methods.magnitude_bits(delta)
        digits = bits >> self._shift if number == 0 else bits[bits >> 16 == self._threshold] & 0xFFFF
        self._counts += torch.bincount(digits, minlength=len(self._counts)).numpy()
        return None

    def settle(self, number: int) -> None:
        if number >= self.selecting:
            return super().settle(number)
        if self._rank:
            found, above = methods.select_bin(self._counts, self._rank)
            self._threshold = found if number == 0 else (self._threshold << 16) + found
            self._rank -= above
        self._counts = np.zeros(1 << 16, np.int64)
        return None

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        if not self._rank:
            return torch.zeros(delta.shape, dtype=torch.bool)
        if start == 0:
            self._ties_left = self._rank
        mask, self._ties_left = methods.trim_mask(methods.magnitude_bits(delta), self._threshold, self._ties_left)
        return mask


class Drop(Thinned):
    """DARE: each element stays with probability ``density``, by a mask that is a function of seed, tensor and position."""

    def __init__(self, dtype: torch.dtype, numel: int, scale: float | None, density: float, key: int) -> None:
        super().__init__(dtype, numel, scale)
        self._density, self._key = density, key
        self.norm_dtype = methods.dare_dtype(dtype)

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return methods.dare_mask(self._key, start, delta.numel(), self._density)


class TaskVectors:
    """task_arithmetic, ties, dare_ties and dare_linear: thin each model's task vector, then add them to the base."""

    def __init__(self, task: PlannedTensor, thinned: list[Whole]) -> None:
        shared, sources = task.parameters, task.inputs[1:]
        self._thinned, self._numel = thinned, task.numel
        self.passes = max(one.passes for one in thinned)
        self._sum = methods.Sum(tuple(source.parameters["weight"] for source in sources), METHODS[task.method].consensus,
                                shared["normalize"], shared["lambda"])
        self._conflicts = 0

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        for thinned, tensor in zip(self._thinned, tensors[1:], strict=True):
            if number < thinned.passes:
                thinned.observe(number, tensor - tensors[0], start)

    def settle(self, number: int) -> None:
        for thinned in self._thinned:
            if number < thinned.passes:
                thinned.settle(number)

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        deltas = torch.empty((len(self._thinned), tensors[0].numel()), dtype=tensors[0].dtype)
        for thinned, tensor, delta in zip(self._thinned, tensors[1:], deltas, strict=True):
            torch.sub(tensor, tensors[0], out=delta)
            thinned.apply(delta, start)
        merged, conflicts = methods.add_task_vectors(tensors[0], deltas, self._sum)
        self._conflicts += conflicts
        return merged

    def facts(self) -> dict[str, Any]:
        size = max(1, self._numel)
        return {"kept": [one.kept / size for one in self._thinned], "sign_conflicts": self._conflicts / size}


def operator_for(task: PlannedTensor, root: int, dare_rescale: str) -> Operator:
    """The operator that carries out a planned tensor; ``root`` is the stage's seed."""
    method = METHODS[task.method]
    if task.method == "slerp":
        return Slerp(task)
    if task.method in ("linear", "passthrough"):
        return Elementwise(task)
    thinned: list[Whole] = []
    for position, source in enumerate(task.inputs[1:]):
        density = float(source.parameters.get("density", 1.0))
        if method.sparsify == "nothing" or density >= 1:
            thinned.append(Whole(task.dtype, task.numel))
            continue
        scale = None if task.parameters["rescale"] else 1.0
        if method.sparsify == "magnitude":
            thinned.append(Trim(task.dtype, task.numel, scale, density))
            continue
        if scale is None and dare_rescale == "paper":
            scale = 1 / density if density else 1.0
        if dare_rescale == "mergekit":
            density = methods.dare_density(density, task.dtype)
        thinned.append(Drop(task.dtype, task.numel, scale, density, seed(root, "dare", task.name, position)))
    return TaskVectors(task, thinned)
