"""multislerp: the weighted mean of several models' directions on the sphere, taken in the plane that touches it at their mean.

The method is mergekit's own, and so are the roundings: every operation in the working type.
"""

from typing import Any

import torch

from biomistral.errors import UserError
from biomistral.merging.angles import Total
from biomistral.merging.planned import PlannedTensor


class MultiSlerp:
    """Four readings: lengths, length of the mean direction, cosines to it, length of the step in the touching plane."""

    passes = 4
    unit = 1

    def __init__(self, task: PlannedTensor) -> None:
        self._task, self._based = task, task.based
        sources, shared = task.inputs[task.based:], task.parameters
        self._count, self._eps = len(sources), float(shared["eps"])
        weights = torch.tensor([float(source.parameters["weight"]) for source in sources], dtype=task.dtype)
        self._weights = (weights / weights.sum() if shared["normalize_weights"] else weights).unsqueeze(1)
        self._totals = [[Total() for _ in range(number)] for number in (self._count, 1, self._count, 1)]
        self._linear = False
        if self._count == 1:
            self.passes = 0

    def _vectors(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([tensor - tensors[0] for tensor in tensors[1:]] if self._based else tensors)

    def _values(self, number: int) -> torch.Tensor:
        return torch.stack([total.value for total in self._totals[number]])

    def _units(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors / (self._norms + self._eps)

    def _mean(self, units: torch.Tensor) -> torch.Tensor:
        return (units * self._weights).sum(0)

    def _step(self, units: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return ((units - self._dots * mean) * self._weights).sum(0)

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        vectors = self._vectors(tensors)
        if number == 0:
            products = vectors.double().square()
        else:
            units = self._units(vectors)
            mean = self._mean(units) if number == 1 else self._mean(units) / self._length
            products = (mean.double().square()[None] if number == 1 else units * mean if number == 2
                        else self._step(units, mean).double().square()[None])
        for total, product in zip(self._totals[number], products, strict=True):
            total.add(product)

    def settle(self, number: int) -> None:
        values, dtype = self._values(number), self._task.dtype
        if number == 0:
            self._norms = values.sqrt().to(dtype).unsqueeze(1)
        elif number == 1:
            self._length = values[0].sqrt().to(dtype)
            self._linear = bool(self._length < self._eps)
            if self._linear and self._count > 2:
                raise UserError(f"tensor {self._task.name}: the weighted directions of the models cancel, so that multislerp has "
                                "no mean to go by; change the weights")
        elif number == 2:
            self._dots = values.to(dtype).unsqueeze(1)
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
            mean = self._mean(units) / self._length
            merged = mean * torch.cos(self._angle) + self._step(units, mean) * (torch.sin(self._angle) / self._angle)
            merged = merged * (self._norms * self._weights).sum()
        return merged + tensors[0] if self._based else merged

    def facts(self) -> dict[str, Any]:
        return {} if self._count == 1 else {"branch": "lerp" if self._linear else "slerp"}
