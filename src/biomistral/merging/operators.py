"""All merge methods by PyTorch, over a tensor that comes in chunks: what `fused` has no loops for, and what a GPU does."""

import math
from typing import Any, Protocol

import numpy as np
import torch

from biomistral.merging import methods, scalars
from biomistral.merging.angles import ColumnTurn, RowSlerp, RowTurn, Stock, WholeTurn
from biomistral.merging.catalogue import METHODS, Variants
from biomistral.merging.kernels import block_dots
from biomistral.merging.multislerp import MultiSlerp
from biomistral.merging.planned import PlannedInput, PlannedTensor
from biomistral.merging.rows import Rows
from biomistral.merging.sce import Sce
from biomistral.merging.tensors import as_array, as_tensor
from biomistral.merging.thinning import Band, Drop, Prune, Trim, TrimAt, Whole
from biomistral.seeds import seed


class TorchOperator(Protocol):
    """An `engine.Operator` on flat tensors of one device, whose result is in the type computed in."""

    passes: int
    unit: int

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None: ...

    def settle(self, number: int) -> None: ...

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor: ...

    def facts(self) -> dict[str, Any]: ...


class Elementwise:
    """linear, passthrough, nearswap and ram: nothing to know beforehand."""

    passes = 0
    unit = 1

    def __init__(self, task: PlannedTensor) -> None:
        self._task = task

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        settings, shared = [source.parameters for source in self._task.inputs], self._task.parameters
        if self._task.method == "passthrough":
            return methods.scaled(tensors[0], settings[0]["scale"])
        if self._task.method == "nearswap":
            return methods.near_swap(float(shared["t"]), *tensors)
        if self._task.method == "ram":
            return methods.reinforced_agents(tensors, float(shared["epsilon"]))
        return methods.linear(tensors, [values["weight"] for values in settings], shared["normalize"])

    def facts(self) -> dict[str, Any]:
        return {}


class Slerp:
    """Norms and dot product first, then the interpolation."""

    passes = 1
    unit = 1

    def __init__(self, t: float) -> None:
        self._t = t
        self._sums: list[list[float]] = [[], [], []]

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        a, b = (tensor.float() for tensor in tensors)
        for sums, pair in zip(self._sums, ((a, b), (a, a), (b, b)), strict=True):
            sums.extend(block_dots(*pair))

    def settle(self, number: int) -> None:
        dot, squares_a, squares_b = map(math.fsum, self._sums)
        self._by = scalars.slerp_coefficients(self._t, dot, math.sqrt(squares_a), math.sqrt(squares_b))

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        return methods.interpolate(tensors[0], tensors[1], self._by)

    def facts(self) -> dict[str, Any]:
        return {"branch": self._by.branch, "cosine": self._by.cosine, "t": self._t}


class TaskVectors:
    """task_arithmetic, TIES, DARE, Breadcrumbs and DELLA: thin each model's task vector, then add them to the base."""

    def __init__(self, task: PlannedTensor, thinned: list[Whole]) -> None:
        shared, sources = task.parameters, task.inputs[1:]
        self._thinned, self._numel = thinned, task.numel
        self.passes = max(one.passes for one in thinned)
        self.unit = max(one.unit for one in thinned)
        self._sum = scalars.Sum(tuple(source.parameters["weight"] for source in sources), METHODS[task.method].consensus,
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
        deltas = torch.empty((len(self._thinned), tensors[0].numel()), dtype=tensors[0].dtype, device=tensors[0].device)
        for thinned, tensor, delta in zip(self._thinned, tensors[1:], deltas, strict=True):
            torch.sub(tensor, tensors[0], out=delta)
            thinned.apply(delta, start)
        merged, conflicts = methods.add_task_vectors(tensors[0], deltas, self._sum)
        self._conflicts += conflicts
        return merged

    def facts(self) -> dict[str, Any]:
        size = max(1, self._numel)
        return {"kept": [one.kept / size for one in self._thinned], "sign_conflicts": self._conflicts / size}


class OnTorch:
    """An `engine.Operator` that hands its chunks to one on a device and takes the result back."""

    peaks = None

    def __init__(self, task: PlannedTensor, operator: TorchOperator, device: str) -> None:
        self._task, self._operator, self._device = task, operator, device if type(operator) in _ON_ANY_DEVICE else "cpu"
        self.passes, self.unit = operator.passes, operator.unit

    def _tensors(self, inputs: Rows) -> list[torch.Tensor]:
        return [as_tensor(row.copy(), self._task.dtype).to(self._device) for row in inputs]

    def observe(self, number: int, inputs: Rows, start: int) -> None:
        self._operator.observe(number, self._tensors(inputs), start)

    def settle(self, number: int) -> None:
        self._operator.settle(number)

    def apply(self, inputs: Rows, start: int) -> np.ndarray:
        merged = self._operator.apply(self._tensors(inputs), start)
        return as_array(merged.to(self._task.out_dtype.torch))

    def facts(self) -> dict[str, Any]:
        return self._operator.facts()


_ON_ANY_DEVICE = (Elementwise, Slerp, TaskVectors)
"""The others sum angles in numpy, row by row in float64, and stay on the CPU."""


def torch_operator(task: PlannedTensor, root: int, variants: Variants, thresholds: dict[str, int] | None = None
                   ) -> TorchOperator:
    """The operator that carries out a planned tensor; see `engine.operator_for`."""
    if task.method in ("linear", "passthrough", "nearswap", "ram"):
        return Elementwise(task)
    if METHODS[task.method].thins is None:
        return _of_angles(task, variants)
    thinned = [_thinned(task, source, seed(root, "dare", task.name, position), variants, thresholds or {})
               for position, source in enumerate(task.inputs[1:])]
    return TaskVectors(task, thinned)


def _of_angles(task: PlannedTensor, variants: Variants) -> TorchOperator:
    """Methods that measure lengths and angles before they give a result."""
    shared, columns = task.parameters, task.shape[-1] if task.shape else 1
    if task.method == "slerp":
        t = float(shared["t"])
        return RowSlerp(t, columns) if variants.slerp_over == "row" else Slerp(t)
    if task.method == "model_stock":
        return Stock(task.dtype.torch, len(task.inputs) - 1, columns if shared["filter_wise"] else None)
    if task.method == "multislerp":
        return MultiSlerp(task)
    if task.method == "sce":
        return Sce(task.dtype, task.numel, len(task.inputs) - 1, float(shared["select_topk"]))
    first, second = (float(source.parameters["weight"]) for source in task.inputs[-2:])
    if shared["nuslerp_flatten"]:
        return WholeTurn(first, second)
    if shared["nuslerp_row_wise"]:
        return ColumnTurn(first, second, task.numel // task.shape[0])
    return RowTurn(first, second, columns)


def _thinned(task: PlannedTensor, source: PlannedInput, key: int, variants: Variants, thresholds: dict[str, int]) -> Whole:
    """How one model's task vector is thinned. The papers' rescale takes no reading, mergekit's does (``scale`` None)."""
    kind, values, numel = METHODS[task.method].thins, source.parameters, task.numel
    density, scale = float(values["density"]), None if task.parameters["rescale"] else 1.0
    by_paper = scale is None and variants.dare_rescale == "paper"
    if kind == "nothing" or density >= 1:
        return Whole(task.dtype, numel)
    if kind == "magnitude":
        if source.model in thresholds:
            return TrimAt(task.dtype, numel, scale, thresholds[source.model])
        return Trim(task.dtype, numel, scale, density)
    if kind == "outliers":
        return Band(task.dtype, numel, scale, density, float(values["gamma"]))
    if kind == "random" or density <= 0:
        rounded = density if variants.dare_rescale == "paper" else scalars.dare_density(density, task.dtype)
        return Drop(task.dtype, numel, (1 / density if density else 1.0) if by_paper else scale, rounded, key)
    columns = task.shape[-1] if task.shape else 1
    return Prune(task.dtype, numel, 1.0 if by_paper else scale, (density, float(values["epsilon"])), key, columns, by_paper)
