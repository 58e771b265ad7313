"""SCE (arXiv 2408.07990): keep the entries in which the models differ most, weigh models by their squares, erase minorities.

mergekit 0.1.5's results are the reference: every operation rounds to the working type.
"""

from typing import Any

import torch

from biomistral.merging.angles import Total
from biomistral.merging.kernels import magnitude_bits
from biomistral.merging.thinning import Selection

_EVEN_BELOW = 1e-6


class Sce:
    """Readings: the variances' histogram where not all entries are kept, then the mean square of each model's task vector."""

    unit = 1

    def __init__(self, dtype: torch.dtype, numel: int, count: int, share: float) -> None:
        self._numel, self._share, self._kept, self._nonzero = numel, share, 0, 0
        self._selection = Selection(dtype, 0) if 0 < share < 1 else None
        self._selecting = self._selection.passes if self._selection else 0
        self.passes = self._selecting + 1
        self._squares = [Total() for _ in range(count)]

    def _vectors(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        """Task vectors, without what is not kept."""
        vectors = torch.stack([tensor - tensors[0] for tensor in tensors[1:]])
        if self._selection is not None:
            vectors *= self._selection.mask(_variances(vectors), start)
        elif self._share <= 0:
            vectors.zero_()
        return vectors

    def observe(self, number: int, tensors: list[torch.Tensor], start: int) -> None:
        if self._selection is not None and number < self._selecting:
            bits = _variances(torch.stack([tensor - tensors[0] for tensor in tensors[1:]]))
            if number == 0:
                self._nonzero += int(bits.count_nonzero())
            self._selection.observe(number, bits)
            return
        for total, square in zip(self._squares, self._vectors(tensors, start).square(), strict=True):
            total.add(square)

    def settle(self, number: int) -> None:
        if self._selection is not None and number < self._selecting:
            if number == 0:
                self._selection.rank = int(self._nonzero * self._share)
            self._selection.settle(number)

    def apply(self, tensors: list[torch.Tensor], start: int) -> torch.Tensor:
        vectors = self._vectors(tensors, start)
        self._kept += int((vectors != 0).any(0).sum())
        majority = (vectors.sum(0) >= 0).to(vectors.dtype) * 2 - 1
        weights = self._weights(vectors.dtype).unsqueeze(1) * (vectors.sign() == majority)
        merged = (vectors * weights).sum(0)
        return tensors[0] + merged / weights.sum(0).clamp(min=1e-6)

    def _weights(self, dtype: torch.dtype) -> torch.Tensor:
        means = torch.stack([total.value / self._numel for total in self._squares]).to(dtype)
        total = float(means.sum())
        return torch.ones_like(means) / len(means) if abs(total) < _EVEN_BELOW else means / total

    def facts(self) -> dict[str, Any]:
        return {"changed": self._kept / max(1, self._numel)}


def _variances(vectors: torch.Tensor) -> torch.Tensor:
    """The variance over the models of each entry, as integers in its order."""
    return magnitude_bits(torch.var(vectors, dim=0, unbiased=False))
