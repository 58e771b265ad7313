"""Read a results folder and prove that its summaries say what its answers say."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
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
from biomistral.reporting.lineage import Node, lineage_of
from biomistral.reporting.questionnaire import QUESTION, Labels, Numbers, Questionnaire, asked
from biomistral.reporting.results_file import BenchmarkInfo, Fertility, ModelInfo, Protocol, Score, Summary
from biomistral.scoring.permutations import published_letter

Scores: TypeAlias = NDArray[np.float64]
_TOLERANCE = 1e-6
_LATER = {"permutation": pa.int32(), "order": pa.list_(pa.int32()), "cluster": pa.string()}
"""Columns that older folders lack."""
_COLUMNS = ("model", "protocol", *QUESTION, "shot_set", "right")


@dataclass(frozen=True)
class Run:
    """One model under one protocol: its summary, and one score a question (its mean over shot sets and permutations)."""

    folder: Path
    model: ModelInfo
    benchmark: BenchmarkInfo
    protocol: str
    summary: Protocol
    questionnaire: Questionnaire
    scores: Scores
    fertility: Fertility | None
    """What each language costs this model's tokenizer; None: not known."""

    @property
    def shot_sets(self) -> int:
        return self.questionnaire.shot_sets

    @property
    def permutations(self) -> int:
        return self.questionnaire.permutations

    @property
    def chance(self) -> float:
        return self.questionnaire.chance

    @property
    def questions(self) -> str:
        """Hash of the questions and their right answers: runs that share it are aligned, row by row."""
        return self.questionnaire.digest

    @property
    def tasks(self) -> Labels:
        """The task of each question."""
        return self.questionnaire.tasks.labels()

    @property
    def clusters(self) -> Numbers:
        """The same number for questions that ask the same: what is no independent evidence."""
        return self.questionnaire.clusters.numbers

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

    def places(self, kind: str, name: str, language: str = "") -> Numbers:
        """Where the questions of one task, group or language stand, or of all: kind ``task``, ``group``, ``language`` or
        ``overall``; of one language only, if one is named."""
        return self.questionnaire.places(kind, name, language)

    def scope(self, kind: str, name: str, language: str = "") -> Scores:
        """The scores of these questions."""
        chosen: Scores = self.scores[self.places(kind, name, language)]
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

    @cached_property
    def lineage(self) -> Node:
        """What it was made from; several pages of a site tell of it, and finding it opens every folder of the chain."""
        return lineage_of(self.artifact)


def read_results(folder: Path, known: list[Questionnaire] | None = None) -> Results:
    """Read a results folder and recompute every accuracy in it from its answers. ``known`` are questionnaires read before: one
    that fits is used again, and new ones are put there.

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
    own = {name: answers.filter(pc.equal(answers["protocol"], name)) if len(found) > 1 else answers for name in summary.protocols}
    runs = {name: _run(folder, summary, name, own[name], [] if known is None else known) for name in summary.protocols}
    for run in runs.values():
        _check(run)
    return Results(artifact, summary, runs)


def read_all(folders: Iterable[Path]) -> list[Results]:
    """Read several results folders.

    Raises:
        UserError: see `read_results`; or two different models, or two rows of one table, share a name.
    """
    results: list[Results] = []
    known: list[Questionnaire] = []
    for folder in folders:
        new = read_results(folder, known)
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
    """Right answers by their published letters, so that a question's permutations are one question."""
    for name, kind in _LATER.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    columns = {"answer": _published_answers(table), "permutation": pc.fill_null(table["permutation"], 0),
               "cluster": pc.coalesce(table["cluster"], table["question"])}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _published_answers(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if table["order"].null_count == len(table):
        return table["answer"]
    rows = zip(table["answer"].to_pylist(), table["order"].to_pylist(), strict=True)
    return pa.array([published_letter({"order": order}, answer) for answer, order in rows], pa.string())


def _run(folder: Path, summary: Summary, protocol: str, answers: pa.Table, known: list[Questionnaire]) -> Run:
    """Collapse the answers of one protocol to one score a question, in the order of task, language and question."""
    table = answers.select([*QUESTION, "cluster", "shot_set", "permutation"])
    questionnaire = next((one for one in known if one.answers.equals(table)), None)
    if questionnaire is None:
        questionnaire = asked(table)
        if questionnaire is None:
            raise UserError(f"{folder}/answers.parquet: {protocol}: a question was not answered exactly once per shot set and "
                            "permutation; evaluate again")
        known.append(questionnaire)
    right = answers["right"].to_numpy().astype(np.float64)
    return Run(folder, summary.model, summary.benchmark, protocol, summary.protocols[protocol], questionnaire,
               questionnaire.mean_scores(right), summary.fertility)


def _check(run: Run) -> None:
    """Refuse a summary that its answers do not bear out."""
    summary = run.summary
    scores = [("overall", "overall", summary.overall)]
    languages = {name: one.overall for name, one in summary.languages.items()}
    there = run.questionnaire
    kinds = [("task", summary.tasks, there.tasks), ("group", summary.groups, there.groups)]
    for kind, claimed, found in [*kinds, ("language", languages, there.languages)] if languages else kinds:
        names = set(found.names) - {""}
        if names != set(claimed):
            raise _disagree(run, f"{kind}s", sorted(claimed), sorted(names))
        scores += [(kind, name, score) for name, score in claimed.items()]
    for kind, name, score in scores:
        _check_score(run, kind if kind == "overall" else f"{kind} {name}", score, run.scope(kind, name))
    for language, own in summary.languages.items():
        for task, score in own.tasks.items():
            _check_score(run, f"language {language}: task {task}", score, run.scope("task", task, language))
    mean = sum(score.accuracy for score in summary.tasks.values()) / len(summary.tasks)
    if not _close(summary.average, mean):
        raise _disagree(run, "average of the tasks", summary.average, mean)


def _check_score(run: Run, where: str, score: Score, values: Scores) -> None:
    if score.n != len(values):
        raise _disagree(run, f"{where}: n", score.n, len(values))
    if not _close(score.accuracy, found := float(values.mean())):
        raise _disagree(run, f"{where}: accuracy", score.accuracy, found)
    low, high = score.interval
    if not 0 <= low <= score.accuracy + _TOLERANCE or not score.accuracy - _TOLERANCE <= high <= 1:
        raise UserError(f"{run.folder}/results.json: {run.protocol}: {where}: accuracy {score.accuracy:.4f} is not inside "
                        f"its interval [{low:.4f}, {high:.4f}]; evaluate again")


def _close(claimed: float, found: float) -> bool:
    return math.isclose(claimed, float(found), rel_tol=0.0, abs_tol=_TOLERANCE)


def _disagree(run: Run, what: str, claimed: Any, found: Any) -> UserError:
    return UserError(f"{run.folder}: {run.protocol}: {what}: results.json says {claimed}, answers.parquet gives {found}; "
                     "one of the files was changed, evaluate again")
