"""A model's results on its card: the hub's ``model-index``, tables with intervals, and what a reader must know of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomistral.cards import differences
from biomistral.errors import UserError
from biomistral.reporting.results import Results, Run, read_results
from biomistral.reporting.results_file import Score
from biomistral.reporting.view import warnings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_ECE_SAID = 10.0
"""Points of expected calibration error from which on confidence is no measure of being right."""


@dataclass(frozen=True)
class Measured:
    """Results folders for one card: those about the model itself, and those about models it was made from."""

    own: list[Results]
    parents: list[Results]

    @property
    def runs(self) -> list[Run]:
        """Every table there is of the model itself."""
        return [run for results in self.own for run in results.runs.values()]


def read(folders: Sequence[Path], key: str, ancestors: Collection[str]) -> Measured:
    """Results folders about the model with this key or about one of its ancestors, each proved by its answers.

    Raises:
        UserError: one is not sound, or about another model; a table stands in two of them; an ancestor's has no question in
            common with the model's.
    """
    found: list[Results] = []
    for folder in folders:
        results = read_results(folder)
        if results.model.key != key and results.model.key not in ancestors:
            raise UserError(f"{folder}: is about {results.model.name!r} (key {results.model.key[:12]}), the card about the model "
                            f"with key {key[:12]}; give results of this very folder, or of one it was made from")
        twice = _boards(*(one for one in found if one.model.key == results.model.key)) & _boards(results)
        if twice:
            raise UserError(f"{folder}: {min(twice)[4]} on {min(twice)[0]} stands in another of these folders too; leave one out")
        found.append(results)
    own = [one for one in found if one.model.key == key]
    measured = Measured(own, [one for one in found if one.model.key != key])
    differences.check(measured.runs, measured.parents)
    return measured


def _boards(*results: Results) -> set[tuple[Any, ...]]:
    return {run.board for one in results for run in one.runs.values()}


def model_index(runs: Sequence[Run]) -> "list[EvalResult]":
    """One entry a task and protocol, and one a protocol for the mean of its tasks; values in percent."""
    from huggingface_hub import EvalResult

    found = []
    for run in runs:
        # one dataset is one benchmark's task: the hub's classes join what has the same type, config, split and revision
        rows = [(task, score.accuracy, _measured(score)) for task, score in run.summary.tasks.items()]
        rows += [("average of tasks", run.summary.average, {})] if len(rows) > 1 else []
        for task, value, measured in rows:
            found.append(EvalResult(
                task_type="question-answering", task_name="Multiple choice", dataset_type=run.benchmark.name,
                dataset_name=f"{run.benchmark.name}: {task}", dataset_config=task,
                dataset_split=run.benchmark.split,
                dataset_revision=run.benchmark.key, metric_type="accuracy", metric_value=round(100 * value, 2),
                metric_name=f"accuracy in percent, {run.protocol}",
                metric_args={**measured, "protocol": run.protocol, "definition_hash": run.summary.definition_hash}))
    return found


def _measured(score: Score) -> dict[str, Any]:
    return {"questions": score.n, "interval_95": [round(100 * bound, 2) for bound in score.interval]}


def tables(measured: Measured) -> list[dict[str, Any]]:
    """For each protocol on each benchmark its definition's hash, a row a task, group and language, and the differences to models
    that this one was made from."""
    return [{"benchmark": run.benchmark.name, "benchmark_key": run.benchmark.key, "split": run.benchmark.split,
             "limit": run.benchmark.limit, "protocol": run.protocol, "definition_hash": run.summary.definition_hash,
             "shot_sets": run.shot_sets, "chance": run.chance, "average": run.summary.average, "tasks": len(run.summary.tasks),
             "rows": _rows(run), "differences": differences.tables(run, measured.parents)} for run in measured.runs]


def _rows(run: Run) -> list[dict[str, Any]]:
    summary = run.summary
    scores = [*summary.tasks.items(), *((f"group: {name}", summary.groups[name]) for name in run.group_names)]
    if len(summary.languages) > 1:
        scores += [(f"language: {name}", one.overall) for name, one in summary.languages.items()]
    if len(summary.tasks) > 1:
        scores.append(("all questions", summary.overall))
    return [{"name": name, "n": score.n, "accuracy": score.accuracy, "low": score.interval[0], "high": score.interval[1],
             "spread": score.spread if run.shot_sets > 1 else None} for name, score in scores]


def limitations(runs: Sequence[Run]) -> list[str]:
    """What was measured that a reader must know before believing a score: letter bias, prompts not followed, calibration,
    guessing."""
    found = []
    for run in runs:
        summary, where = run.summary, f"{run.benchmark.name}, {run.protocol}"
        found += [f"{where}: {one['text']}" for one in warnings(run)]
        if summary.degenerate is None and (distance := _letter_bias(run)) is not None:
            found.append(f"{where}: letter bias {distance:.2f} (0: chooses letters as often as they are right, 1: always one).")
        if summary.calibration and (ece := summary.calibration.ece) is not None:
            said = "its confidence is no measure of being right" if ece >= _ECE_SAID else "confidence and accuracy are near"
            found.append(f"{where}: expected calibration error {ece:.1f} points (10 bins): {said}.")
    return found


def _letter_bias(run: Run) -> float | None:
    positions = (run.summary.model_extra or {}).get("positions")
    distance = positions.get("distance") if isinstance(positions, dict) else None
    return float(distance) if isinstance(distance, (int, float)) else None
