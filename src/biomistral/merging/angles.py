"""Operators of the methods that measure angles: of the whole tensor, of its rows, or of its columns.

Whole rows lie in one chunk, so those need no reading beforehand; a column or a whole tensor is summed up first.
"""

import math
from typing import Any

import numpy as np
import torch

from biomistral.merging import angular
from biomistral.merging.blocks import BLOCK


class RowSlerp:
    """SLERP with an angle for every row (a vector is one row)."""

    passes = 0

    def __init__(self, t: float, columns: int) -> None:
        self._t, self.unit = t, columns
        self._rows = self._linear = 0

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        first, second = (tensor.view(-1, self.unit) for tensor in tensors)
        merged, linear = angular.slerp_rows(self._t, first, second)
        self._rows, self._linear = self._rows + len(first), self._linear + linear
        return merged.reshape(-1)

    def facts(self) -> dict[str, Any]:
        return {"t": self._t, "lerp_rows": self._linear / max(1, self._rows)}


class Turning:
    """nuslerp: from the first model's direction towards the second's, seen from the base if there is one."""

    unit = 1

    def __init__(self, first: float, second: float) -> None:
        self._share = angular.share_of_second(first, second)

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def turn(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Turn flat vectors, given as they lie in the chunk."""
        raise AssertionError("each kind has its own")

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        turned = self.turn(*_from_base(tensors)).reshape(-1)
        return tensors[0] + turned if len(tensors) == 3 else turned

    def facts(self) -> dict[str, Any]:
        return {"t": self._share}


def _from_base(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(tensors) == 3:
        return tensors[1] - tensors[0], tensors[2] - tensors[0]
    return tensors[0], tensors[1]


class RowTurn(Turning):
    """Every row turns by itself."""

    passes = 0

    def __init__(self, first: float, second: float, columns: int) -> None:
        super().__init__(first, second)
        self.unit = columns

    def turn(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pair = [values.view(-1, self.unit) for values in (first, second)]
        units = [angular.directions(values, angular.row_sums(values.double().square()).sqrt().to(values.dtype))
                 for values in pair]
        cosines = angular.row_sums(units[0] * units[1]).to(first.dtype)
        return angular.turned(angular.turn(self._share, cosines), *pair)


class ColumnTurn(Turning):
    """Every column turns by itself (``nuslerp_row_wise``): lengths in a first reading, angles in a second."""

    passes = 2

    def __init__(self, first: float, second: float, columns: int) -> None:
        super().__init__(first, second)
        self.unit = columns
        self._squares = [torch.zeros(columns, dtype=torch.float64) for _ in range(2)]
        self._dots = torch.zeros(columns, dtype=torch.float64)

    def _norms(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [total.sqrt().to(dtype) for total in self._squares]

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        pair = [values.view(-1, self.unit) for values in _from_base(tensors)]
        if number == 0:
            self._squares = [angular.add_rows(total, values.double().square())
                             for total, values in zip(self._squares, pair, strict=True)]
        else:
            first, second = map(angular.directions, pair, self._norms(pair[0].dtype))
            self._dots = angular.add_rows(self._dots, first * second)

    def turn(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        by = angular.turn(self._share, self._dots.to(first.dtype))
        return angular.turned(by, first.view(-1, self.unit), second.view(-1, self.unit))


class WholeTurn(Turning):
    """The tensor turns as one vector: its length in a first reading, the angle in a second."""

    passes = 2

    def __init__(self, first: float, second: float) -> None:
        super().__init__(first, second)
        self._sums = [Total(), Total(), Total()]

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        pair = _from_base(tensors)
        if number == 0:
            for total, values in zip(self._sums, pair, strict=False):
                total.add(values.double().square())
        else:
            first, second = map(angular.directions, pair, self._norms(pair[0].dtype))
            self._sums[2].add(first * second)

    def _norms(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [total.value.sqrt().to(dtype) for total in self._sums[:2]]

    def turn(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return angular.turned(angular.turn(self._share, self._sums[2].value.to(first.dtype)), first, second)


class Stock:
    """model_stock: the angles between the fine-tuned models say how far to go from the base to their mean.

    ``columns`` None takes the tensor as one vector, a number every row of so many elements.
    """

    def __init__(self, dtype: torch.dtype, count: int, columns: int | None) -> None:
        self._dtype, self._count, self.unit = dtype, count, columns or 1
        self._by_row = columns is not None
        self.passes = 0 if self._by_row else 1
        self._sums = [Total() for _ in range(count + count * (count - 1) // 2)]
        self._ratios: list[float] = []
        self._rows = 0

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        for total, product in zip(self._sums, self._products(tensors), strict=True):
            total.add(product)

    def _products(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return angular.stock_products([tensor - tensors[0] for tensor in tensors[1:]])

    def settle(self, number: int) -> None:
        self._ratio = angular.stock_ratio([total.value for total in self._sums], self._count, self._dtype)
        self._note(self._ratio)

    def _note(self, ratios: torch.Tensor) -> None:
        self._ratios += ratios.double().view(-1).tolist()
        self._rows += ratios.numel()

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        if not self._by_row:
            return angular.stock(tensors[0], tensors[1:], self._ratio)
        rows = [tensor.view(-1, self.unit) for tensor in tensors]
        ratio = angular.stock_ratio([angular.row_sums(product) for product in self._products(rows)], self._count, self._dtype)
        self._note(ratio)
        return angular.stock(rows[0], rows[1:], ratio).reshape(-1)

    def facts(self) -> dict[str, Any]:
        return {"ratio": math.fsum(self._ratios) / max(1, self._rows)}


class Total:
    """A float64 sum of a tensor that comes in chunks: of its blocks, added up exactly."""

    def __init__(self) -> None:
        self._blocks: list[float] = []

    def add(self, values: torch.Tensor) -> None:
        flat = values.double().numpy()
        whole = len(flat) // BLOCK * BLOCK
        self._blocks += np.add.reduce(flat[:whole].reshape(-1, BLOCK), axis=1).tolist()
        if whole < len(flat):
            self._blocks.append(float(np.add.reduce(flat[whole:])))

    @property
    def value(self) -> torch.Tensor:
        return torch.tensor(math.fsum(self._blocks), dtype=torch.float64)
