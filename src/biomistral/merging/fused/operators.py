"""Operators of the usual methods over chunks as numpy holds them (`engine.Operator`), by compiled loops."""

import math
from typing import Any

import numpy as np

from biomistral.merging import scalars
from biomistral.merging.blocks import BLOCK
from biomistral.merging.catalogue import METHODS, Variants
from biomistral.merging.draws import Draws
from biomistral.merging.floats import Float, converted, rounded
from biomistral.merging.fused.native import run, spare
from biomistral.merging.planned import PlannedInput, PlannedTensor
from biomistral.merging.rows import Rows
from biomistral.seeds import seed

MEASURES = ("peaks", "drift")
"""What `account` takes of every tensor."""

_THINNED = ("norms", "add_task_vectors")
_DRAWN = (*_THINNED, "draw")
LOOPS = {"linear": ("linear",), "slerp": ("block_dots", "interpolate"),
         "task_arithmetic": ("add_task_vectors",), "ties": (*_THINNED, "histogram"), "dare_linear": _DRAWN,
         "dare_ties": _DRAWN}
"""Method -> the loops it takes."""

_NO_MASK: np.ndarray = np.empty(0, np.uint8)
_EVERYTHING, _NOTHING = -1, 0x7F800000
"""Thresholds: no finite magnitude reaches infinity's bits."""


def fits(task: PlannedTensor, variants: Variants) -> bool:
    """Whether there are loops for a planned tensor; where there are not, PyTorch does it."""
    plain = variants.slerp_over == "tensor" and variants.ties_trim == "tensor"
    return plain and task.method in LOOPS and task.dtype is not Float.F16 and len(task.inputs) <= scalars.MOST_SUMMED


def operator_for(task: PlannedTensor, root: int, variants: Variants) -> "Linear":
    """The operator that carries out a planned tensor that `fits`; ``root`` is the stage's seed."""
    if task.method == "linear":
        return Linear(task)
    return Slerp(task) if task.method == "slerp" else TaskVectors(task, root, variants)


class Linear:
    """The weighted sum; what the others below share."""

    passes = 0
    unit = 1

    def __init__(self, task: PlannedTensor) -> None:
        self._task = task
        self.peaks: np.ndarray = np.zeros(1 + len(task.inputs), np.int64)
        self._merged: np.ndarray = np.empty(0, task.dtype.storage)
        self._spare = spare(len(task.inputs) + 3)

    def observe(self, number: int, inputs: Rows, start: int) -> None:
        raise AssertionError("no readings were asked for")

    def settle(self, number: int) -> None: ...

    def apply(self, inputs: Rows, start: int) -> np.ndarray:
        """The result's elements from ``start`` on, as they are stored; valid until the next ones are asked for."""
        count = len(inputs[0])
        if len(self._merged) < count:
            self._merged = np.empty(count, self._task.dtype.storage)
        merged = self.merge(inputs, start, self._merged[:count])
        return converted(merged, self._task.dtype, self._task.out_dtype)

    def merge(self, inputs: Rows, start: int, merged: np.ndarray) -> np.ndarray:
        if start == 0:
            self._weights = np.array([source.parameters["weight"] for source in self._task.inputs], np.float32)
            self._divisor = scalars.weight_sum(self._weights) if self._task.parameters["normalize"] else np.float32(1)
        run("linear", self._task.dtype, inputs.addresses, len(inputs), self._weights, self._divisor, merged, len(merged),
            self.peaks, self._spare)
        return merged

    def facts(self) -> dict[str, Any]:
        return {}


class Slerp(Linear):
    """Norms and dot product first, then the interpolation."""

    passes = 1

    def __init__(self, task: PlannedTensor) -> None:
        super().__init__(task)
        self._sums: list[np.ndarray] = []
        self._t = float(task.parameters["t"])

    def observe(self, number: int, inputs: Rows, start: int) -> None:
        whole, rest = divmod(len(inputs[0]), BLOCK)
        self._measure(inputs, whole)
        if rest:  # the last, shorter block of a tensor is filled up with zeros
            last: np.ndarray = np.zeros((2, BLOCK), self._task.dtype.storage)
            last[0, :rest], last[1, :rest] = (row[whole * BLOCK:] for row in inputs)
            self._measure(Rows(last), 1)

    def _measure(self, inputs: Rows, blocks: int) -> None:
        sums: np.ndarray = np.empty((blocks, 3), np.float32)
        run("block_dots", self._task.dtype, inputs.addresses, blocks * BLOCK, sums, blocks, self._spare)
        self._sums.append(sums)

    def settle(self, number: int) -> None:
        dot, squares_a, squares_b = _totals(self._sums)
        self._by = scalars.slerp_coefficients(self._t, dot, math.sqrt(squares_a), math.sqrt(squares_b))

    def merge(self, inputs: Rows, start: int, merged: np.ndarray) -> np.ndarray:
        by = self._by
        if (by.first, by.second) in ((1, 0), (0, 1)):
            chosen = inputs[int(by.second)]
            run("peaks", self._task.dtype, Rows([chosen, *inputs]).addresses, 3, len(merged), self.peaks)
            return chosen
        run("interpolate", self._task.dtype, inputs.addresses, by.first, by.second, merged, len(merged), self.peaks)
        return merged

    def facts(self) -> dict[str, Any]:
        return {"branch": self._by.branch, "cosine": self._by.cosine, "t": self._t}


class Thinning:
    """What is known of one model's task vector: which of its elements stay, and how they are rescaled.

    ``scale`` None asks for mergekit's L1 rescale, which takes a reading of its own.
    """

    def __init__(self, task: PlannedTensor, source: PlannedInput, key: int, variants: Variants) -> None:
        kind, density, numel = METHODS[task.method].thins, float(source.parameters["density"]), task.numel
        whole = kind == "nothing" or density >= 1
        self.scale: float | None = None if task.parameters["rescale"] and not whole else 1.0
        self.dtype = task.dtype
        self.ranking: scalars.Ranking | None = None
        self.draws: Draws | None = None
        self.in_mask = 0
        if kind == "magnitude" and not whole:
            self.ranking = scalars.Ranking(task.dtype, scalars.num_kept(density, numel))
        elif not whole:
            by_paper = variants.dare_rescale == "paper"
            if by_paper and self.scale is None:
                self.scale = 1 / density if density else 1.0
            chance = density if by_paper else scalars.dare_density(density, task.dtype)
            self.draws = Draws(key, chance, numel, twice=self.scale is None)
        self.selecting = self.ranking.passes if self.ranking else 0
        self.passes = self.selecting + (self.scale is None)
        self._ties: np.ndarray = np.zeros(1, np.int64)
        self._spare = spare(2)
        self._shift = 16 if task.dtype is Float.BF16 else 0
        self._counts: np.ndarray = np.zeros((2, len(self.ranking.counts) if self.ranking else 0), np.int64)
        self._sums: list[np.ndarray] = []
        self.kept = scalars.num_kept(density, numel) if self.ranking else 0 if self.draws else numel

    @property
    def num_ties(self) -> int:
        """How many elements that equal the threshold are still to be kept when a reading begins."""
        return self.ranking.rank if self.ranking else 0

    @property
    def threshold(self) -> int:
        """What `fused.thinning.thin` compares magnitudes with."""
        if self.ranking is None:
            return _EVERYTHING
        return self.ranking.threshold << self._shift if self.ranking.rank else _NOTHING

    def mask(self, start: int, count: int) -> np.ndarray:
        """1 where an element stays, else 0; empty where no chance is involved."""
        if self.draws is None:
            return _NO_MASK
        mask, self.in_mask = self.draws.mask(start, count)
        return mask

    def observe(self, number: int, inputs: Rows, place: int, start: int) -> None:
        """Take in a chunk of the row at ``place``, the task vector's, beside the first one, the base's."""
        row, base, count = inputs.pointers[place], inputs.pointers[0], len(inputs[0])
        if self.ranking and number < self.selecting:
            run("histogram", self.dtype, row, base, count, self.ranking.threshold if number else -1, self._counts,
                self._counts.shape[1], self._spare)
            return
        if start == 0:
            self._ties[0] = self.num_ties
        sums: np.ndarray = np.empty((-(-count // BLOCK), 2), np.float32)
        mask = self.mask(start, count)
        run("norms", self.dtype, row, base, count, self.threshold, self._ties, mask, len(mask), sums, len(sums),
            self._spare)
        self._sums.append(sums)

    def settle(self, number: int) -> None:
        if self.ranking and number < self.selecting:
            self.ranking.counts += self._counts.sum(0)
            self.ranking.settle(number)
            self._counts = np.zeros((2, len(self.ranking.counts)), np.int64)
        else:
            before, after = _totals(self._sums)
            self.scale = scalars.l1_rescale(before, after, self.dtype)


class TaskVectors(Linear):
    """task_arithmetic, TIES and DARE: thin each model's task vector, then add them to the base."""

    def __init__(self, task: PlannedTensor, root: int, variants: Variants) -> None:
        super().__init__(task)
        self._thinned = [Thinning(task, source, seed(root, "dare", task.name, position), variants)
                         for position, source in enumerate(task.inputs[1:])]
        self.passes = max(thinned.passes for thinned in self._thinned)
        weights = [rounded(source.parameters["weight"], task.dtype) for source in task.inputs[1:]]
        self._weights = np.array(weights, np.float32)
        self._consensus = METHODS[task.method].consensus
        self._conflicts, self._kept = 0, [0] * len(self._thinned)

    def observe(self, number: int, inputs: Rows, start: int) -> None:
        for place, thinned in enumerate(self._thinned, 1):
            if number < thinned.passes:
                thinned.observe(number, inputs, place, start)

    def settle(self, number: int) -> None:
        for thinned in self._thinned:
            if number < thinned.passes:
                thinned.settle(number)

    def merge(self, inputs: Rows, start: int, merged: np.ndarray) -> np.ndarray:
        if start == 0:
            self._begin()
        masks = Rows(thinned.mask(start, len(merged)) for thinned in self._thinned)
        masked: np.ndarray = np.array(list(map(len, masks)), np.int64)
        self._conflicts += run(
            "add_task_vectors", self._task.dtype, inputs.addresses, len(masks), self._thresholds, self._ties, masks.addresses,
            masked, self._scales, self._weights, self._consensus, self._divisor, self._task.parameters["lambda"], merged,
            len(merged), self.peaks, self._spare)
        self._kept = [kept + thinned.in_mask for kept, thinned in zip(self._kept, self._thinned, strict=True)]
        return merged

    def _begin(self) -> None:
        """What the readings have settled."""
        self._ties = np.array([thinned.num_ties for thinned in self._thinned], np.int64)
        self._thresholds = np.array([thinned.threshold for thinned in self._thinned], np.int64)
        self._scales = np.array([thinned.scale for thinned in self._thinned], np.float32)
        self._divisor = self._divided_by()

    def _divided_by(self) -> np.float32:
        """What the sum is divided by; 0 where that is for each element the weights of those that stay."""
        if not self._task.parameters["normalize"]:
            return np.float32(1)
        if self._consensus:
            return np.float32(0)
        divisor = np.float32(rounded(float(scalars.weight_sum(self._weights)), self._task.dtype))
        return divisor if abs(divisor) >= 1e-8 else np.float32(1)

    def facts(self) -> dict[str, Any]:
        size = max(1, self._task.numel)
        kept = [(thinned.kept + drawn) / size for thinned, drawn in zip(self._thinned, self._kept, strict=True)]
        return {"kept": kept, "sign_conflicts": self._conflicts / size}


def _totals(sums: list[np.ndarray]) -> list[float]:
    """Sums over all blocks, one a column, that do not depend on their order."""
    return [math.fsum(column.tolist()) for column in np.concatenate(sums).T]
