"""An embedding or head whose rows are those of another vocabulary, read run by run from where each row comes from."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from biomistral.merging.blocks import chunks
from biomistral.merging.checkpoint import Reader
from biomistral.merging.floats import Float, converted, narrow, promoted, widen
from biomistral.merging.planned import PlannedInput
from biomistral.merging.vocabulary import NAMES, Donors, Vocabulary

_ROWS = 64
"""Rows read at once for the mean row: 0.5 MB of 4,096 in bfloat16."""


@dataclass(frozen=True)
class Run:
    """Rows ``start`` to ``start + count`` of the result come from as many rows on of each donor; ``spare`` rows, which no
    token has, get the mean of all others."""

    start: int
    count: int
    donors: Donors
    spare: bool = False


class Aligned:
    """A `views.View` of one model's embedding in the result's vocabulary. Means are taken in ``dtype``, as mergekit does."""

    def __init__(self, runs: list[Run], donors: dict[str, PlannedInput], size: int, dtype: Float) -> None:
        self._runs, self._donors, self._starts = runs, donors, [run.start for run in runs]
        self.shape = (size, *next(iter(donors.values())).shape[1:])
        self.dtype = dtype
        self._width = reduce(lambda product, size: product * size, self.shape[1:], 1)
        self._mean: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self._width * self.dtype.itemsize

    def read(self, reader: Reader, slot: int, start: int, count: int) -> np.ndarray:
        """As `views.View.read`."""
        out: np.ndarray = np.empty(count, self.dtype.storage)
        index, end = bisect_right(self._starts, start // self._width) - 1, start + count
        while index < len(self._runs) and self._runs[index].start * self._width < end:
            run = self._runs[index]
            first = max(start, run.start * self._width)
            last = min(end, (run.start + run.count) * self._width)
            self._fill(out[first - start:last - start], run, first - run.start * self._width, reader, slot)
            index += 1
        return out

    def _fill(self, out: np.ndarray, run: Run, offset: int, reader: Reader, slot: int) -> None:
        """Fill ``out`` with what a run holds from element ``offset`` on."""
        if run.spare:
            out[:] = self._mean_row(reader, slot)[(np.arange(len(out)) + offset) % self._width]
            return
        parts = run.donors.rows
        if len(parts) == 1:
            out[:] = self._part(*parts[0], offset, len(out), reader, slot)
            return
        out[:] = 0
        for model, row in parts:
            part = self._part(model, row, offset, len(out), reader, slot)
            out[:] = narrow(widen(out, self.dtype) + widen(part, self.dtype), self.dtype)
        if parts:
            out[:] = narrow(widen(out, self.dtype) / np.float32(len(parts)), self.dtype)

    def _part(self, model: str, row: int, offset: int, count: int, reader: Reader, slot: int) -> np.ndarray:
        donor = self._donors[model]
        start = row * self._width + offset
        part = (reader.read(slot, donor.tensor, donor.stored, start, count) if donor.view is None
                else donor.view.read(reader, slot, start, count))
        return converted(part, donor.dtype, self.dtype)

    def _mean_row(self, reader: Reader, slot: int) -> np.ndarray:
        """The mean of the rows that are tokens, read once."""
        if self._mean is None:
            total, rows = np.zeros(self._width), 0
            for run in self._runs:
                if not run.spare:
                    rows += run.count
                    for first, count in chunks(run.count, _ROWS):
                        part: np.ndarray = np.empty(count * self._width, self.dtype.storage)
                        self._fill(part, run, first * self._width, reader, slot)
                        for row in widen(part, self.dtype).reshape(count, self._width):
                            total += row
            self._mean = narrow((total / rows).astype(np.float32), self.dtype)
        return self._mean


def aligned(vocabulary: Vocabulary, inputs: list[PlannedInput], base: str | None, dtype: Float | None,
            known: dict[tuple[str, ...], list[Run]]) -> list[PlannedInput]:
    """The inputs of a tensor with one row a token, each seen in the result's vocabulary.

    ``known`` remembers the runs: those of a head are those of the embedding.
    """
    donors = {source.model: source for source in inputs}
    kind = dtype or promoted([source.dtype for source in inputs])
    views = []
    for model in donors:
        key = (model, str(base), *donors)
        if key not in known:
            known[key] = runs_of(vocabulary.rows(model, list(donors), base), vocabulary.size)
        views.append(Aligned(known[key], donors, vocabulary.size, kind))
    return [PlannedInput(source.model, source.tensor, source.stored, source.parameters, view)
            for source, view in zip(inputs, views, strict=True)]


def has_rows_of_tokens(name: str) -> bool:
    """Whether a tensor outside the layers has one row for each token."""
    return name.endswith(NAMES)


def runs_of(rows: Iterable[tuple[int, Donors]], size: int) -> list[Run]:
    """Rows that follow one another in the result and in every donor, together; ids that ``rows`` leaves out are spare."""
    runs: list[Run] = []
    for number, donors in _with_spare(rows, size):
        last = runs[-1] if runs else None
        if last is not None and _goes_on(last, donors):
            runs[-1] = Run(last.start, last.count + 1, last.donors, last.spare)
        else:
            runs.append(Run(number, 1, donors or Donors(), spare=donors is None))
    return runs


def _with_spare(rows: Iterable[tuple[int, Donors]], size: int) -> Iterator[tuple[int, Donors | None]]:
    expected = 0
    for number, donors in rows:
        yield from ((spare, None) for spare in range(expected, number))
        yield number, donors
        expected = number + 1
    yield from ((spare, None) for spare in range(expected, size))


def _goes_on(run: Run, donors: Donors | None) -> bool:
    if donors is None or run.spare:
        return donors is None and run.spare
    return len(donors.rows) == len(run.donors.rows) and all(
        model == other and row == first + run.count
        for (model, row), (other, first) in zip(donors.rows, run.donors.rows, strict=True))
