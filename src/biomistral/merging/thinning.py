"""Thinning one model's task vector while it comes in chunks: readings that find what stays, then the thinning itself."""

import math
import operator

import numpy as np
import torch

from biomistral.merging import della, methods, scalars
from biomistral.merging.draws import Draws
from biomistral.merging.floats import Float
from biomistral.merging.kernels import block_sums, compared, keep_where, magnitude_bits, num_kept
from biomistral.merging.scalars import Ranking, num_passes


class Whole:
    """A task vector that is kept whole; the others below thin theirs."""

    passes = 0
    unit = 1
    """Chunks hold whole multiples of so many elements."""

    def __init__(self, dtype: Float, numel: int) -> None:
        self.dtype, self.numel, self.kept = dtype, numel, 0

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, delta: torch.Tensor, start: int) -> None:
        """Thin and rescale the task vector in place."""
        self.kept += delta.numel()


class Thinned(Whole):
    """What the kinds below share: a mask, and a rescale that may need a reading of its own.

    ``scale`` None asks for mergekit's L1 rescale.
    """

    selecting = 0

    def __init__(self, dtype: Float, numel: int, scale: float | None) -> None:
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
        self._before.extend(block_sums(magnitudes))
        keep_where(magnitudes, self.mask(delta, start))
        self._after.extend(block_sums(magnitudes))

    def settle(self, number: int) -> None:
        self._scale = scalars.l1_rescale(math.fsum(self._before), math.fsum(self._after), self.norm_dtype)

    def apply(self, delta: torch.Tensor, start: int) -> None:
        mask = self.mask(delta, start)
        self.kept += num_kept(mask)
        keep_where(delta, mask)
        if self._scale != 1:
            delta.mul_(self._scale)


class Selection(Ranking):
    """A `Ranking` of a tensor's integers."""

    _ties_left = 0

    def observe(self, number: int, bits: torch.Tensor) -> None:
        shift = 16 * (self.passes - 1)
        digits = bits >> shift if number == 0 else bits[bits >> 16 == self.threshold] & 0xFFFF
        self.counts += torch.bincount(digits, minlength=len(self.counts)).cpu().numpy()

    def mask(self, bits: torch.Tensor, start: int) -> torch.Tensor:
        """Which of a chunk belong to the largest; chunks are asked for in order, from the first."""
        if not self.rank:
            return torch.zeros_like(bits, dtype=torch.bool)
        if start == 0:
            self._ties_left = self.rank
        mask, self._ties_left = methods.trim_mask(bits, self.threshold, self._ties_left)
        return mask


class Trim(Thinned):
    """TIES: the k largest magnitudes."""

    def __init__(self, dtype: Float, numel: int, scale: float | None, density: float) -> None:
        self.selecting = num_passes(dtype)
        super().__init__(dtype, numel, scale)
        self._selection = Selection(dtype, scalars.num_kept(density, numel))

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        if number >= self.selecting:
            return super().observe(number, delta, start)
        return self._selection.observe(number, magnitude_bits(delta))

    def settle(self, number: int) -> None:
        return super().settle(number) if number >= self.selecting else self._selection.settle(number)

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return self._selection.mask(magnitude_bits(delta), start)


class TrimAt(Thinned):
    """TIES as its authors' code has it: one threshold for the model's whole task vector, and all that reaches it stays."""

    def __init__(self, dtype: Float, numel: int, scale: float | None, threshold: int) -> None:
        super().__init__(dtype, numel, scale)
        self._threshold = threshold

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return compared(operator.ge, magnitude_bits(delta), self._threshold)


class Band(Thinned):
    """Model Breadcrumbs: neither the smallest magnitudes nor the share ``gamma`` of the largest.

    Both borders are selections among the negated magnitudes: of equal ones the first count as smaller, as in a stable sort.
    """

    def __init__(self, dtype: Float, numel: int, scale: float | None, density: float, gamma: float) -> None:
        self.selecting = num_passes(dtype)
        super().__init__(dtype, numel, scale)
        below, kept = scalars.breadcrumbs_band(density, gamma, numel)
        self._borders = [Selection(dtype, rank) for rank in (below, below + kept)]

    def _negated(self, delta: torch.Tensor) -> torch.Tensor:
        bits = magnitude_bits(delta)
        return (0x7FFFFFFF if bits.dtype == torch.int32 else 0x7FFF) - bits

    def observe(self, number: int, delta: torch.Tensor, start: int) -> None:
        if number >= self.selecting:
            return super().observe(number, delta, start)
        bits = self._negated(delta)
        for border in self._borders:
            border.observe(number, bits)
        return None

    def settle(self, number: int) -> None:
        if number >= self.selecting:
            return super().settle(number)
        for border in self._borders:
            border.settle(number)
        return None

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        bits = self._negated(delta)
        below, up_to = (border.mask(bits, start) for border in self._borders)
        return up_to & ~below


class Drop(Thinned):
    """DARE: each element stays with probability ``density``, by a mask that is a function of seed, tensor and position."""

    def __init__(self, dtype: Float, numel: int, scale: float | None, density: float, key: int) -> None:
        super().__init__(dtype, numel, scale)
        self.norm_dtype = scalars.dare_dtype(dtype)
        self._draws = Draws(key, density, numel, twice=self.passes > 0)

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        mask, _ = self._draws.mask(start, delta.numel())
        return torch.from_numpy(mask.view(np.bool_)).to(delta.device)


class Prune(Thinned):
    """DELLA: each element stays with a probability that grows with its rank in its row.

    ``inverse`` divides what stays by that probability, as the paper does, instead of one scale for the tensor.
    """

    def __init__(self, dtype: Float, numel: int, scale: float | None, chance: tuple[float, float], key: int, columns: int,
                 inverse: bool) -> None:
        super().__init__(dtype, numel, scale)
        self._key, self.unit, self._inverse = key, columns, inverse
        self._chances = della.chances(columns, *chance, dtype)
        self._limits = della.limits(self._chances)
        self.norm_dtype = scalars.dare_dtype(dtype)

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return della.mask(self._key, start, delta.view(-1, self.unit), self._limits)

    def apply(self, delta: torch.Tensor, start: int) -> None:
        chances = della.by_rank(delta.view(-1, self.unit), self._chances) if self._inverse else None
        super().apply(delta, start)
        if chances is not None:
            delta.div_(torch.from_numpy(chances.reshape(-1)).to(delta.dtype))
