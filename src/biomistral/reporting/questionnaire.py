"""What a run was asked: questions in a fixed order, and which answers belong to each. Runs that were asked alike share one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.object_]
Numbers: TypeAlias = NDArray[np.int64]
QUESTION = ("task", "language", "question", "group", "answer", "options")
_WAYS = ("shot_set", "permutation")


@dataclass(frozen=True)
class Part:
    """One way to sort questions: ``names`` in order, and the number of each question's name."""

    names: Sequence[str]
    numbers: Numbers

    def __getitem__(self, name: str) -> Numbers:
        """Where the questions of this name stand; of a name that none has, nowhere."""
        return np.flatnonzero(self.numbers == self.names.index(name)) if name in self.names else np.empty(0, np.int64)

    def labels(self) -> Labels:
        """The name of each question."""
        return np.array(self.names, dtype=object)[self.numbers]


@dataclass(frozen=True)
class Questionnaire:
    """Questions in the order of task, language and id. ``answers`` are the columns it was read from, ``place`` the question that
    each of their rows answers."""

    answers: pa.Table
    place: Numbers
    tasks: Part
    languages: Part
    groups: Part
    clusters: Part
    """The same for questions that ask the same: what is no independent evidence."""
    shot_sets: int
    permutations: int
    chance: float
    digest: str
    """Hash of the questions and their right answers: runs that share it are aligned, row by row."""
    _found: dict[tuple[str, str, str], Numbers] = field(default_factory=dict, repr=False, compare=False)

    def places(self, kind: str, name: str, language: str = "") -> Numbers:
        """Where the questions of one task, group or language stand, or of all (kind ``overall``); in one language only."""
        key = (kind, name, language)
        if key not in self._found:
            self._found[key] = self._places(kind, name, language)
        return self._found[key]

    def _places(self, kind: str, name: str, language: str) -> Numbers:
        if language:
            return np.intersect1d(self.places(kind, name), self.languages[language], assume_unique=True)
        if kind == "overall":
            return np.arange(len(self.tasks.numbers))
        return {"task": self.tasks, "group": self.groups, "language": self.languages}[kind][name]

    def mean_scores(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """One score a question from one value an answer: the mean over its shot sets and permutations."""
        means: NDArray[np.float64] = np.bincount(self.place, weights=right) / (self.shot_sets * self.permutations)
        return means


def asked(answers: pa.Table) -> Questionnaire | None:
    """Collapse answers (columns `QUESTION`, ``cluster``, ``shot_set``, ``permutation``) to their questions; None if one was not
    answered exactly once per shot set and permutation."""
    columns = [_ranked(answers[name]) for name in (*QUESTION, "cluster")]
    place = _together([numbers for _, numbers in columns])
    ways = [_ranked(answers[name])[1] for name in _WAYS]
    count = int(place.max()) + 1
    times = [_distinct(place, way, count) for way in (*ways, _together(ways))] + [np.bincount(place)]
    shot_sets, permutations = (int(one[0]) for one in times[:2])
    if any(np.any(one != expected) for one, expected in
           zip(times, (shot_sets, permutations, shot_sets * permutations, shot_sets * permutations), strict=True)):
        return None
    first: Numbers = np.empty(count, np.int64)
    first[place[::-1]] = np.arange(len(place) - 1, -1, -1)
    parts = {name: Part(names, numbers[first]) for name, (names, numbers) in zip((*QUESTION, "cluster"), columns, strict=True)}
    options = np.array([int(name) for name in parts["options"].names])[parts["options"].numbers]
    listed = json.dumps([*(parts[name].labels().tolist() for name in QUESTION[:-1]), options.tolist()])
    return Questionnaire(answers, place, parts["task"], parts["language"], parts["group"], parts["cluster"], shot_sets,
                         permutations, float(np.mean(1.0 / options)), hashlib.sha256(listed.encode()).hexdigest())


def _ranked(column: pa.ChunkedArray) -> tuple[list[str], Numbers]:
    """The distinct values in order, as text, and the number of each row's."""
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank: Numbers = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return [str(value) for value in encoded.dictionary.take(pa.array(order)).to_pylist()], rank[encoded.indices.to_numpy()]


def _together(columns: Sequence[Numbers]) -> Numbers:
    """Rows numbered by what stands in several columns, in the order of the first, then the second, ..."""
    numbers = columns[0]
    for column in columns[1:]:
        numbers = np.unique(numbers * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return numbers


def _distinct(place: Numbers, values: Numbers, count: int) -> Numbers:
    """How many different values each place has."""
    pairs = np.unique(place * (int(values.max()) + 1) + values)
    return np.bincount(pairs // (int(values.max()) + 1), minlength=count)
