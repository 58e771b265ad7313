"""multislerp: the weighted mean of several models' directions on the sphere, taken in the plane that touches it at their mean.

The method is mergekit's own, and so are the roundings: every operation in the working type.
"""

from typing import Any

import torch

from biomistral.errors import UserError
from biomistral.merging.angles import Total
from biomistral.merging.kernels import total
from biomistral.merging.planned import PlannedTensor


class MultiSlerp:
    """Four readings: lengths, length of the mean direction, cosines to it, length of the step in the touching plane."""

    passes = 4
    unit = 1

    def __init__(self, task: PlannedTensor) -> None:
        self._task, self._based = task, task.based
        sources, shared = task.inputs[task.based:], task.parameters
        self._count, self._eps = len(sources), float(shared["eps"])
        weights = torch.tensor([float(source.parameters["weight"]) for source in sources], dtype=task.dtype.torch)
        self._weights: list[float] = (weights / weights.sum() if shared["normalize_weights"] else weights).tolist()
        self._totals = [[Total() for _ in range(number)] for number in (self._count, 1, self._count, 1)]
        self._linear = False
        if self._count == 1:
            self.passes = 0

    def _vectors(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor - tensors[0] for tensor in tensors[1:]] if self._based else tensors

    def _units(self, vectors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [vector / (norm + self._eps) for vector, norm in zip(vectors, self._norms, strict=True)]

    def _weighted(self, vectors: list[torch.Tensor]) -> torch.Tensor:
        return total([vector * weight for vector, weight in zip(vectors, self._weights, strict=True)])

    def _step(self, units: list[torch.Tensor], mean: torch.Tensor) -> torch.Tensor:
        """From the mean direction, in the plane that touches the sphere there."""
        return self._weighted([unit - dot * mean for unit, dot in zip(units, self._dots, strict=True)])

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        vectors = self._vectors(tensors)
        if number == 0:
            products = [vector.double().square() for vector in vectors]
        else:
            units = self._units(vectors)
            mean = self._weighted(units)
            if number > 1:
                mean = mean / self._length
            products = ([mean.double().square()] if number == 1 else [unit * mean for unit in units] if number == 2
                        else [self._step(units, mean).double().square()])
        for sums, product in zip(self._totals[number], products, strict=True):
            sums.add(product)

    def settle(self, number: int) -> None:
        dtype = self._task.dtype.torch
        values = [sums.value for sums in self._totals[number]]
        if number == 0:
            self._norms = [value.sqrt().to(dtype) for value in values]
        elif number == 1:
            self._length = values[0].sqrt().to(dtype)
            self._linear = bool(self._length < self._eps)
            if self._linear and self._count > 2:
                raise UserError(f"tensor {self._task.name}: the weighted directions of the models cancel, so that multislerp has "
                                "no mean to go by; change the weights")
        elif number == 2:
            self._dots = [value.to(dtype) for value in values]
        else:
            self._angle = values[0].sqrt().to(dtype) + self._eps

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        if self._count == 1:
            return tensors[-1]
        vectors = self._vectors(tensors)
        if self._linear:
            merged = vectors[0] * self._weights[0] + vectors[1] * self._weights[1]
        else:
            units = self._units(vectors)
            mean = self._weighted(units) / self._length
            merged = mean * torch.cos(self._angle) + self._step(units, mean) * (torch.sin(self._angle) / self._angle)
            merged = merged * self._weighted(self._norms)
        return merged + tensors[0] if self._based else merged

    def facts(self) -> dict[str, Any]:
        return {} if self._count == 1 else {"branch": "lerp" if self._linear else "slerp"}
