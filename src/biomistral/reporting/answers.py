"""One model's answers under one protocol, a row a question, small enough to hold those of all models of a table at once."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomistral.records import LETTERS
from biomistral.reporting.questionnaire import Labels, Questionnaire
from biomistral.reporting.results import Run

STEPS = 200
"""Probabilities and shares are kept in steps of half a percent: one byte each, 72 MB instead of 490 for 60 models and 200,000
questions."""
NONE = 255

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Rows are questions in the order of `questionnaire.Questionnaire`; letters are those of the published order of the options.

    ``chosen`` is the option (from 0) that was chosen most often over shot sets and permutations, of equals the first (`NONE`: no
    answer could be read); ``share`` how often the right one was (`STEPS`: always); ``probabilities`` (questions, most options)
    are means over the same, `NONE` where there are none. ``said``: the first answer in words, where there are such.
    """

    chosen: Bytes
    share: Bytes
    probabilities: Bytes
    said: Labels | None


class AnswerReader:
    """Reads the answers of models that were asked alike; ``questions`` are ids, ``answer`` and ``options`` say which option is
    right (from 0) and of how many, ``ways`` how often each question was asked."""

    def __init__(self, asked: Questionnaire) -> None:
        self.ways = asked.shot_sets * asked.permutations
        self._rows: Ints = np.argsort(asked.place, kind="stable")
        first = asked.answers.take(pa.array(self._rows[:: self.ways]))
        self.questions: Labels = np.array(first["question"].to_pylist(), dtype=object)
        self.answer: Bytes = _bytes(_letters(first["answer"]))
        self.options: Bytes = first["options"].to_numpy().astype(np.uint8)

    def read(self, run: Run) -> Answers:
        """The answers of a run with this questionnaire, from its folder."""
        file = run.folder / "answers.parquet"
        columns = ["chosen", "right", "probabilities", *{"order", "said"}.intersection(pq.read_schema(file).names)]
        table = pq.read_table(file, columns=columns, filters=[("protocol", "=", run.protocol)])
        order = _order(table)
        right = self._by_question(table["right"].to_numpy().astype(np.float64))
        return Answers(_most_frequent(self._by_question(_published(_letters(table["chosen"]), order))),
                       _steps(right.mean(axis=1)), self._probabilities(table, order), self._said(table))

    def _by_question(self, values: NDArray[np.generic]) -> NDArray[Any]:
        """Rows of answers as (questions, ways, ...)."""
        return values[self._rows].reshape(len(self.questions), self.ways, *values.shape[1:])

    def _probabilities(self, table: pa.Table, order: Ints | None) -> Bytes:
        """Means of those answers that have probabilities."""
        found = _padded(table["probabilities"], float(np.nan))
        if order is not None and found.shape[1]:
            found = _as_published(found, order)
        found = self._by_question(found)
        known = ~np.isnan(found)
        counts = known.sum(axis=1)
        sums = np.where(known, found, 0.0).sum(axis=1)
        return _steps(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))

    def _said(self, table: pa.Table) -> Labels | None:
        if "said" not in table.column_names or table["said"].null_count == len(table):
            return None
        said: Labels = np.array(table["said"].take(pa.array(self._rows[:: self.ways])).to_pylist(), dtype=object)
        return said


def _letters(column: pa.ChunkedArray) -> Ints:
    """The places of letters, from 0; -1 of none."""
    places = pc.fill_null(pc.index_in(column, value_set=pa.array(list(LETTERS))), -1)
    return places.to_numpy().astype(np.int64)


def _bytes(letters: Ints) -> Bytes:
    return np.where(letters >= 0, letters, NONE).astype(np.uint8)


def _order(table: pa.Table) -> Ints | None:
    """Which published option stood at each letter, (answers, options), -1 behind the last; None: all as published."""
    if "order" not in table.column_names or table["order"].null_count == len(table):
        return None
    order = _padded(table["order"], -1.0).astype(np.int64)
    order[table["order"].is_null().to_numpy(zero_copy_only=False)] = np.arange(order.shape[1])
    return order


def _published(letters: Ints, order: Ints | None) -> Bytes:
    """Letters as they were shown, as those under which the options were published."""
    if order is not None:
        letters = np.where(letters >= 0, order[np.arange(len(order)), np.maximum(letters, 0)], -1)
    return _bytes(letters)


def _as_published(shown: Floats, order: Ints) -> Floats:
    """Rows of probabilities in the published order of the options."""
    width = max(shown.shape[1], order.shape[1])
    shown = np.pad(shown, ((0, 0), (0, width - shown.shape[1])), constant_values=np.nan)
    found = np.full_like(shown, np.nan)
    rows, places = np.nonzero(order >= 0)
    found[rows, order[rows, places]] = shown[rows, places]
    return found


def _padded(column: pa.ChunkedArray, nothing: float) -> Floats:
    """A column of lists as a matrix."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = pc.list_flatten(column).to_numpy().astype(np.float64)
    width = int(lengths.max(initial=0))
    if len(values) == width * len(lengths):
        return values.reshape(len(lengths), width)
    matrix = np.full((len(lengths), width), nothing)
    matrix[np.arange(width) < lengths[:, None]] = values
    return matrix


def _most_frequent(letters: Bytes) -> Bytes:
    """The letter that most of the answers (questions, ways) to each question give; of equals the first, and one that was read."""
    if letters.shape[1] == 1:
        return letters[:, 0]
    num = len(LETTERS) + 1
    places = np.where(letters == NONE, num - 1, letters).astype(np.int64)
    cells = (np.arange(len(letters))[:, None] * num + places).ravel()
    best = np.bincount(cells, minlength=len(letters) * num).reshape(len(letters), num).argmax(axis=1)
    return np.where(best == num - 1, NONE, best).astype(np.uint8)


def _steps(values: Floats) -> Bytes:
    """Fractions in steps of half a percent."""
    return np.where(np.isnan(values), NONE, np.rint(np.nan_to_num(values) * STEPS)).astype(np.uint8)
