"""SCE (arXiv 2408.07990): keep the entries in which the models differ most, weigh models by their squares, erase minorities.

mergekit 0.1.5's results are the reference: every operation rounds to the working type.
"""

from typing import Any

import torch

from biomistral.merging.angles import Total
from biomistral.merging.floats import Float
from biomistral.merging.kernels import keep_majority, keep_where, magnitude_bits, shared_weights, total
from biomistral.merging.thinning import Selection

_EVEN_BELOW = 1e-6


class Sce:
    """Readings: the variances' histogram where not all entries are kept, then the mean square of each model's task vector."""

    unit = 1

    def __init__(self, dtype: Float, numel: int, count: int, share: float) -> None:
        self._numel, self._share, self._conflicts, self._nonzero = numel, share, 0, 0
        self._selection = Selection(dtype, 0) if 0 < share < 1 else None
        self._selecting = self._selection.passes if self._selection else 0
        self.passes = self._selecting + 1
        self._squares = [Total() for _ in range(count)]

    def _vectors(self, tensors: list[torch.Tensor], start: int) -> list[torch.Tensor]:
        """Task vectors, without what is not kept."""
        vectors = [tensor - tensors[0] for tensor in tensors[1:]]
        if self._selection is not None:
            mask = self._selection.mask(_variances(vectors), start)
            for vector in vectors:
                keep_where(vector, mask)
        elif self._share <= 0:
            vectors = [vector.zero_() for vector in vectors]
        return vectors

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        if self._selection is not None and number < self._selecting:
            bits = _variances([tensor - tensors[0] for tensor in tensors[1:]])
            if number == 0:
                self._nonzero += int(bits.count_nonzero())
            self._selection.observe(number, bits)
            return
        for sums, vector in zip(self._squares, self._vectors(tensors, start), strict=True):
            sums.add(vector.square())

    def settle(self, number: int) -> None:
        if self._selection is not None and number < self._selecting:
            if number == 0:
                self._selection.rank = int(self._nonzero * self._share)
            self._selection.settle(number)

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        vectors = self._vectors(tensors, start)
        self._conflicts += keep_majority(vectors) if len(vectors) > 1 else 0
        weights = self._weights(tensors[0].dtype)
        divisor = shared_weights(vectors, weights).clamp_(min=1e-6)
        for vector, weight in zip(vectors, weights.tolist(), strict=True):
            vector.mul_(weight)
        return total(vectors).div_(divisor).add_(tensors[0])

    def _weights(self, dtype: torch.dtype) -> torch.Tensor:
        means = torch.stack([sums.value / self._numel for sums in self._squares]).to(dtype)
        whole = float(means.sum())
        return torch.ones_like(means) / len(means) if abs(whole) < _EVEN_BELOW else means / whole

    def facts(self) -> dict[str, Any]:
        return {"sign_conflicts": self._conflicts / max(1, self._numel)}


def _variances(vectors: list[torch.Tensor]) -> torch.Tensor:
    """The variance over the models of each entry, taken in float64 and rounded, as integers in its order."""
    wide = [vector.double() for vector in vectors]
    mean = sum(wide[1:], wide[0]) / len(wide)
    squares = [(values - mean).square_() for values in wide]
    return magnitude_bits((sum(squares[1:], squares[0]) / len(wide)).to(vectors[0].dtype))
