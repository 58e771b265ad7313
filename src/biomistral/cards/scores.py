"""A model's results on its card: the hub's ``model-index``, tables with intervals, and what a reader must know of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomistral.errors import UserError
from biomistral.reporting.results import Results, Run, read_results
from biomistral.reporting.results_file import Score
from biomistral.reporting.view import warnings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_ECE_SAID = 10.0
"""Points of expected calibration error from which on confidence is no measure of being right."""


def read(folders: Sequence[Path], keys: Sequence[str]) -> list[Results]:
    """Results folders that are about the model with one of these keys, each proved by its answers.

    Raises:
        UserError: one is not sound, or about another model; a table stands in two of them.
    """
    found: list[Results] = []
    for folder in folders:
        results = read_results(folder)
        if results.model.key not in keys:
            raise UserError(f"{folder}: is about {results.model.name!r} (key {results.model.key[:12]}), the card about the model "
                            f"with key {keys[0][:12]}; give results of this very folder")
        twice = {run.board for one in found for run in one.runs.values()} & {run.board for run in results.runs.values()}
        if twice:
            raise UserError(f"{folder}: {min(twice)[4]} on {min(twice)[0]} stands in another of these folders too; leave one out")
        found.append(results)
    return found


def runs_of(results: Sequence[Results]) -> list[Run]:
    """Every table there is of this model."""
    return [run for one in results for run in one.runs.values()]


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


def tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each protocol on each benchmark its definition's hash and a row a task, group and language."""
    return [{"benchmark": run.benchmark.name, "benchmark_key": run.benchmark.key, "split": run.benchmark.split,
             "limit": run.benchmark.limit, "protocol": run.protocol, "definition_hash": run.summary.definition_hash,
             "shot_sets": run.shot_sets, "chance": run.chance, "average": run.summary.average, "tasks": len(run.summary.tasks),
             "rows": _rows(run)} for run in runs]


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
