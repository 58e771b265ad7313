"""Read a results folder and prove that its summaries say what its answers say."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from biomistral.artifact import Artifact, open_artifact
from biomistral.errors import UserError
from biomistral.recipe import canonical_hash
from biomistral.reporting.results_file import BenchmarkInfo, Fertility, ModelInfo, Protocol, Score, Summary
from biomistral.scoring.permutations import published_letter

Labels: TypeAlias = NDArray[np.object_]
Scores: TypeAlias = NDArray[np.float64]
_TOLERANCE = 1e-6
_QUESTION = ("task", "language", "question", "group", "answer", "options")
_LATER = {"permutation": pa.int32(), "order": pa.list_(pa.int32()), "cluster": pa.string()}
"""Columns that older folders lack."""
_MOST_PERMUTATIONS = 1_000_000
_COLUMNS = ("model", "protocol", *_QUESTION, "shot_set", "right")


@dataclass(frozen=True)
class Run:
    """One model under one protocol: its summary, and one score a question (its mean over shot sets and permutations)."""

    folder: Path
    model: ModelInfo
    benchmark: BenchmarkInfo
    protocol: str
    summary: Protocol
    tasks: Labels
    groups: Labels
    languages: Labels
    names: Labels
    marks: Labels
    """Ids of the questions, and in words how many options each has and which is right."""
    clusters: Labels
    """The same for questions that ask the same: what is no independent evidence."""
    scores: Scores
    shot_sets: int
    permutations: int
    chance: float
    fertility: Fertility | None
    """What each language costs this model's tokenizer; None: not known."""
    questions: str
    """Hash of the questions and their right answers: runs that share it are aligned, row by row."""

    @property
    def board(self) -> tuple[Any, ...]:
        """What has to be equal before two runs may stand in one table."""
        return (self.benchmark.name, self.benchmark.key, self.benchmark.split, self.benchmark.limit, self.protocol,
                self.summary.definition_hash, self.permutations, self.questions,
                tuple(one.key for one in self.benchmark.translations))

    @property
    def group_names(self) -> list[str]:
        """The groups of questions, what was taught first."""
        return sorted(self.summary.groups, key=lambda name: name != "taught")

    def places(self, kind: str, name: str) -> NDArray[np.int64]:
        """Where the questions of one task, group or language stand, or of all: kind ``task``, ``group``, ``language`` or
        ``overall``."""
        if kind == "overall":
            return np.arange(len(self.scores))
        return np.flatnonzero({"task": self.tasks, "group": self.groups, "language": self.languages}[kind] == name)

    def scope(self, kind: str, name: str) -> Scores:
        """The scores of these questions."""
        chosen: Scores = self.scores[self.places(kind, name)]
        return chosen


@dataclass(frozen=True)
class Results:
    """A results folder, checked."""

    artifact: Artifact
    summary: Summary
    runs: dict[str, Run]

    @property
    def model(self) -> ModelInfo:
        return self.summary.model


def read_results(folder: Path) -> Results:
    """Read a results folder and recompute every accuracy in it from its answers.

    Raises:
        UserError: it is not a finished results folder, a file is malformed, or summary and answers disagree.
    """
    artifact = open_artifact(folder, "evaluate")
    summary = _read_summary(folder / "results.json")
    answers = _read_answers(folder / "answers.parquet")
    names = pc.unique(answers["model"]).to_pylist()
    if names != [summary.model.name]:
        raise UserError(f"{folder}: results.json is about {summary.model.name!r}, answers.parquet about {names}; evaluate again")
    found = set(pc.unique(answers["protocol"]).to_pylist())
    if found != set(summary.protocols):
        raise UserError(f"{folder}: results.json has protocols {sorted(summary.protocols)}, answers.parquet {sorted(found)}; "
                        "evaluate again")
    runs = {name: _run(folder, summary, name, answers.filter(pc.equal(answers["protocol"], name)))
            for name in summary.protocols}
    for run in runs.values():
        _check(run)
    return Results(artifact, summary, runs)


def read_all(folders: Iterable[Path]) -> list[Results]:
    """Read several results folders.

    Raises:
        UserError: see `read_results`; or two different models, or two rows of one table, share a name.
    """
    results: list[Results] = []
    for folder in folders:
        new = read_results(folder)
        for old in results:
            if old.model.name != new.model.name:
                continue
            if old.model.key != new.model.key:
                raise UserError(f"{new.artifact.path}: another model is named {new.model.name!r} too "
                                f"({old.artifact.path}); evaluate one of them under another name")
            twice = {run.board for run in old.runs.values()} & {run.board for run in new.runs.values()}
            if twice:
                raise UserError(f"{new.artifact.path}: {new.model.name!r} under {min(twice)[4]} is already in "
                                f"{old.artifact.path}; leave one of them out")
        results.append(new)
    return results


def _read_summary(path: Path) -> Summary:
    try:
        return Summary.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; evaluate again") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(step) for step in problem["loc"]) or "the file"
        raise UserError(f"{path}: {place}: {problem['msg'].lower()}; evaluate again") from error


def _read_answers(path: Path) -> pa.Table:
    try:
        there = set(pq.read_schema(path).names)
        missing = set(_COLUMNS) - there
        if missing:
            raise UserError(f"{path}: column {min(missing)!r} is missing; evaluate again")
        table = pq.read_table(path, columns=[*_COLUMNS, *there.intersection(_LATER)])
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; evaluate again") from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); evaluate again") from error
    for name in _COLUMNS:
        if table[name].null_count:
            raise UserError(f"{path}: column {name!r} has {table[name].null_count} empty values; evaluate again")
    return _as_published(table)


def _as_published(table: pa.Table) -> pa.Table:
    """Right answers by their published letters, so that a question's permutations are one question; ``way``: how it was asked."""
    for name, kind in _LATER.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    number, cluster = pc.fill_null(table["permutation"], 0), pc.coalesce(table["cluster"], table["question"])
    way = pc.add(pc.multiply(pc.cast(table["shot_set"], pa.int64()), _MOST_PERMUTATIONS), number)
    columns = {"answer": _published_answers(table), "permutation": number, "cluster": cluster}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table.append_column("way", way)


def _published_answers(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if table["order"].null_count == len(table):
        return table["answer"]
    rows = zip(table["answer"].to_pylist(), table["order"].to_pylist(), strict=True)
    return pa.array([published_letter({"order": order}, answer) for answer, order in rows], pa.string())


def _run(folder: Path, summary: Summary, protocol: str, answers: pa.Table) -> Run:
    """Collapse the answers of one protocol to one score a question, in the order of task, language and question."""
    right = answers.set_column(answers.column_names.index("right"), "right", pc.cast(answers["right"], pa.float64()))
    ways = ("shot_set", "permutation", "way")
    table = right.group_by([*_QUESTION, "cluster"]).aggregate([("right", "mean"), ("right", "count"),
                                                                *((way, "count_distinct") for way in ways)])
    table = table.sort_by([(name, "ascending") for name in _QUESTION])
    counts = [pc.unique(table[name]).to_pylist() for name in (*(f"{way}_count_distinct" for way in ways), "right_count")]
    shot_sets, permutations = counts[0][0], counts[1][0]
    if counts != [[shot_sets], [permutations], [shot_sets * permutations], [shot_sets * permutations]]:
        raise UserError(f"{folder}/answers.parquet: {protocol}: a question was not answered exactly once per shot set and "
                        "permutation; evaluate again")
    questions = canonical_hash([table[name].to_pylist() for name in _QUESTION])
    chance = pc.mean(pc.divide(1.0, pc.cast(table["options"], pa.float64()))).as_py()
    tasks, groups, languages, names, clusters = (_strings(table[name])
                                                 for name in ("task", "group", "language", "question", "cluster"))
    marks = np.array([f"{options} options and answer {answer}" for options, answer in
                      zip(table["options"].to_pylist(), table["answer"].to_pylist(), strict=True)], dtype=object)
    return Run(folder, summary.model, summary.benchmark, protocol, summary.protocols[protocol], tasks, groups, languages, names,
               marks, clusters, table["right_mean"].to_numpy(), shot_sets, permutations, chance, summary.fertility, questions)


def _strings(column: pa.ChunkedArray) -> Labels:
    labels: Labels = np.array(column.to_pylist(), dtype=object)
    return labels


def _check(run: Run) -> None:
    """Refuse a summary that its answers do not bear out."""
    summary = run.summary
    scores = [("overall", "overall", summary.overall)]
    languages = {name: one.overall for name, one in summary.languages.items()}
    kinds = [("task", summary.tasks, run.tasks), ("group", summary.groups, run.groups)]
    for kind, claimed, found in [*kinds, ("language", languages, run.languages)] if languages else kinds:
        names = set(found) - {""}
        if names != set(claimed):
            raise _disagree(run, f"{kind}s", sorted(claimed), sorted(names))
        scores += [(kind, name, score) for name, score in claimed.items()]
    for kind, name, score in scores:
        _check_score(run, kind if kind == "overall" else f"{kind} {name}", score, run.scope(kind, name))
    for language, own in summary.languages.items():
        for task, score in own.tasks.items():
            both = np.intersect1d(run.places("language", language), run.places("task", task))
            _check_score(run, f"language {language}: task {task}", score, run.scores[both])
    mean = sum(score.accuracy for score in summary.tasks.values()) / len(summary.tasks)
    if not _close(summary.average, mean):
        raise _disagree(run, "average of the tasks", summary.average, mean)


def _check_score(run: Run, where: str, score: Score, values: Scores) -> None:
    if score.n != len(values):
        raise _disagree(run, f"{where}: n", score.n, len(values))
    if not _close(score.accuracy, values.mean()):
        raise _disagree(run, f"{where}: accuracy", score.accuracy, values.mean())
    low, high = score.interval
    if not 0 <= low <= score.accuracy + _TOLERANCE or not score.accuracy - _TOLERANCE <= high <= 1:
        raise UserError(f"{run.folder}/results.json: {run.protocol}: {where}: accuracy {score.accuracy:.4f} is not inside "
                        f"its interval [{low:.4f}, {high:.4f}]; evaluate again")


def _close(claimed: float, found: float) -> bool:
    return math.isclose(claimed, float(found), rel_tol=0.0, abs_tol=_TOLERANCE)


def _disagree(run: Run, what: str, claimed: Any, found: Any) -> UserError:
    return UserError(f"{run.folder}: {run.protocol}: {what}: results.json says {claimed}, answers.parquet gives {found}; "
                     "one of the files was changed, evaluate again")
