"""One model's answers under one protocol, a row a question, small enough to hold those of all models of a table at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomistral.records import LETTERS
from biomistral.reporting.results import Labels

STEPS = 200
"""Probabilities and shares are kept in steps of half a percent: one byte each, 72 MB instead of 490 for 60 models and 200,000
questions."""
NONE = 255
_IDENTITY = ["task", "language", "question"]
_LATER = {"permutation": pa.int32(), "order": pa.list_(pa.int32()), "said": pa.string(), "letter_mass": pa.float64()}
_NEEDED = [*_IDENTITY, "shot_set", "options", "answer", "chosen", "right", "probabilities"]

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Rows are questions in the order of `results.Run`: by task, language and id. Letters are those of the published order.

    ``chosen`` is the option (from 0) that was chosen most often over shot sets and permutations, of equals the first (`NONE`: no
    answer could be read); ``share`` how often the right one was (`STEPS`: always); ``probabilities`` (questions, most options)
    are means over the same, `NONE` where there are none. ``said``: the first answer in words, where there are such.
    """

    questions: Labels
    answer: Bytes
    options: Bytes
    chosen: Bytes
    share: Bytes
    probabilities: Bytes
    ways: int
    said: Labels | None


class AnswerReader:
    """Reads the answers of many models to the same questions: how to sort them is found out once."""

    def __init__(self) -> None:
        self._keys: pa.Table | None = None
        self._order: Ints = np.zeros(0, np.int64)
        self._starts: Ints = np.zeros(0, np.int64)
        self._questions: Labels = np.zeros(0, object)

    def read(self, folder: Path, protocol: str) -> Answers:
        """The answers in a results folder that `results.read_results` has read and found sound."""
        file = folder / "answers.parquet"
        there = set(pq.read_schema(file).names)
        table = pq.read_table(file, columns=[*_NEEDED, *there.intersection(_LATER)], filters=[("protocol", "=", protocol)])
        self._sort(table.select(_IDENTITY))
        table = table.take(pa.array(self._order)).combine_chunks()
        first = table.take(pa.array(self._starts))
        ways = len(table) // len(first)
        order = _order(table)
        letters = {name: _published(_letters(table[name]), order) for name in ("answer", "chosen")}
        said = _words(first, "said")
        return Answers(self._questions, letters["answer"][self._starts], first["options"].to_numpy().astype(np.uint8),
                       _most_frequent(letters["chosen"], len(first), ways),
                       _steps(self._means(table["right"].to_numpy().astype(np.float64)[:, None]))[:, 0],
                       self._probabilities(table, order), ways, said)

    def _sort(self, keys: pa.Table) -> None:
        """Where the rows of each question go; as for the last model if the rows stand as they stood there."""
        if self._keys is not None and keys.equals(self._keys):
            return
        order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _IDENTITY])
        ordered = keys.take(order)
        new: NDArray[np.bool_] = np.ones(len(ordered), bool)
        new[1:] = np.any([pc.not_equal(ordered[name][1:], ordered[name][:-1]).to_numpy(zero_copy_only=False)
                          for name in _IDENTITY], axis=0)
        self._keys, self._order, self._starts = keys, order.to_numpy().astype(np.int64), np.flatnonzero(new)
        self._questions = _labels(ordered["question"].take(pa.array(self._starts)))

    def _means(self, values: Floats) -> Floats:
        """Means of the rows (answers, columns) of each question; NaN is left out."""
        known = ~np.isnan(values)
        sums = np.add.reduceat(np.where(known, values, 0.0), self._starts)
        counts = np.add.reduceat(known.astype(np.float64), self._starts)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def _probabilities(self, table: pa.Table, order: Ints | None) -> Bytes:
        found = _padded(table["probabilities"], float(np.nan))
        if order is not None and found.shape[1]:
            width = max(found.shape[1], order.shape[1])
            shown = np.pad(found, ((0, 0), (0, width - found.shape[1])), constant_values=np.nan)
            found = np.full_like(shown, np.nan)
            rows, places = np.nonzero(order >= 0)
            found[rows, order[rows, places]] = shown[rows, places]
        return _steps(self._means(found))


def _letters(column: pa.ChunkedArray) -> Ints:
    """The places of letters, from 0; -1 of none."""
    places = pc.fill_null(pc.index_in(column, value_set=pa.array(list(LETTERS))), -1)
    return places.to_numpy().astype(np.int64)


def _order(table: pa.Table) -> Ints | None:
    """Which published option stood at each letter, (answers, options), -1 behind the last; None: all as published."""
    if "order" not in table.column_names or table["order"].null_count == len(table):
        return None
    order = _padded(table["order"], -1.0).astype(np.int64)
    plain = table["order"].is_null().to_numpy(zero_copy_only=False)
    order[plain] = np.arange(order.shape[1])
    return order


def _published(letters: Ints, order: Ints | None) -> Bytes:
    """Letters as they were shown, as those under which the options were published."""
    known = letters >= 0
    if order is not None:
        letters = np.where(known, order[np.arange(len(order)), np.where(known, letters, 0)], -1)
    return np.where(known, letters, NONE).astype(np.uint8)


def _padded(column: pa.ChunkedArray, nothing: float) -> Floats:
    """A column of lists as a matrix."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    values = pc.list_flatten(column).to_numpy().astype(np.float64)
    matrix = np.full((len(lengths), int(lengths.max(initial=0))), nothing)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values
    return matrix


def _most_frequent(letters: Bytes, questions: int, ways: int) -> Bytes:
    """The letter that most of the ``ways`` answers to each question give; of equals the first, and one that was read first."""
    if ways == 1:
        return letters
    num = len(LETTERS) + 1
    places = np.where(letters == NONE, num - 1, letters).astype(np.int64).reshape(questions, ways)
    counts = np.bincount((np.arange(questions)[:, None] * num + places).ravel(), minlength=questions * num)
    best = counts.reshape(questions, num).argmax(axis=1)
    return np.where(best == num - 1, NONE, best).astype(np.uint8)


def _steps(values: Floats) -> Bytes:
    """Fractions in steps of half a percent."""
    return np.where(np.isnan(values), NONE, np.rint(np.nan_to_num(values) * STEPS)).astype(np.uint8)


def _words(table: pa.Table, name: str) -> Labels | None:
    if name not in table.column_names or table[name].null_count == len(table):
        return None
    return _labels(table[name])


def _labels(column: pa.ChunkedArray) -> Labels:
    labels: Labels = np.array(column.to_pylist(), dtype=object)
    return labels


def spans(*labels: Labels) -> Iterator[tuple[tuple[str, ...], slice]]:
    """Runs of rows with equal labels, e.g. of one task and language, in their order; rows are sorted by them."""
    changes = np.any([column[1:] != column[:-1] for column in labels], axis=0)
    ends = [0, *(np.flatnonzero(changes) + 1), len(labels[0])]
    for start, stop in pairwise(ends):
        yield tuple(str(column[start]) for column in labels), slice(int(start), int(stop))
