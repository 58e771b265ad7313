"""Scores in the layout of Papers-with-Code's ``evaluation-tables.json``, and back.

The layout (paperswithcode-data): a list of tasks, each with ``datasets`` (and ``subtasks``), each of these with ``sota``: the
names of its ``metrics`` and ``rows`` of ``model_name``, ``paper_title``, ``paper_url``, ``metrics``. It knows no protocols and
no intervals: here a dataset is a task under one protocol, and a row of ours keeps all it has under ``biomistral``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.exports.scores import Score, plain, score_of

TASK = "Medical Question Answering"
ORIGIN = "Papers with Code"
_ACCURACY = re.compile(r"acc(?:uracy)?\b.*|exact match|em", re.IGNORECASE)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*(?:[±(\[].*)?")


def write(scores: Sequence[Score], paper: tuple[str, str] = ("", "")) -> list[dict[str, Any]]:
    """One task, a dataset a task and table, best row first; ``paper`` is the title and address that the rows name."""
    datasets: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        datasets.setdefault((*score.table, score.task), []).append(score)
    return [{"task": TASK, "description": "", "categories": ["Medical", "Natural Language Processing"], "synonyms": [],
             "source_link": None, "subtasks": [], "datasets": [_dataset(rows, paper) for rows in datasets.values()]}]


def _dataset(scores: list[Score], paper: tuple[str, str]) -> dict[str, Any]:
    first = scores[0]
    name = f"{first.task} ({', '.join(part for part in (first.benchmark, first.split, first.protocol) if part)})"
    rows = sorted(scores, key=lambda score: -score.accuracy)
    return {"dataset": name, "description": f"definition {first.definition_hash}, measured by {first.origin}",
            "dataset_citations": [], "dataset_links": [], "subdatasets": [],
            "sota": {"metrics": ["Accuracy"], "rows": [_row(score, paper) for score in rows]}}


def _row(score: Score, paper: tuple[str, str]) -> dict[str, Any]:
    return {"model_name": score.model, "paper_title": paper[0], "paper_url": paper[1], "paper_date": None, "code_links": [],
            "model_links": [], "uses_additional_data": False, "metrics": {"Accuracy": f"{100 * score.accuracy:.2f}"},
            "biomistral": plain(score)}


def is_tables(data: Any) -> bool:
    """Whether this looks like such a file."""
    return isinstance(data, list) and bool(data) and all(isinstance(one, dict) and "datasets" in one for one in data)


def read(data: list[dict[str, Any]], where: str) -> list[Score]:
    """Every accuracy in the tables. What others put there is under a protocol of its own, ``reported: METRIC``: each row was
    measured as its paper did.

    Raises:
        UserError: a table is not of this layout, or there is no accuracy in any.
    """
    found = [score for task in _tasks(data, where) for dataset in _datasets(task, where) for score in _scores(dataset, where)]
    if not found:
        raise UserError(f"{where}: holds no accuracy of any model")
    return found


def _tasks(tasks: Any, where: str) -> Iterator[dict[str, Any]]:
    for task in _list(tasks, where, "a task"):
        if not isinstance(task, dict):
            raise UserError(f"{where}: {task!r} is no task; is this evaluation-tables.json?")
        yield task
        yield from _tasks(task.get("subtasks"), where)


def _list(value: Any, where: str, what: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: {value!r} where {what} was expected; is this evaluation-tables.json?")
    return list(value or [])


def _datasets(task: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    waiting = _list(task.get("datasets"), where, "datasets")
    while waiting:
        dataset = waiting.pop(0)
        if not isinstance(dataset, dict) or not isinstance(dataset.get("sota"), dict) or not dataset.get("dataset"):
            raise UserError(f"{where}: {task.get('task')}: a dataset without name or 'sota'; is this evaluation-tables.json?")
        yield dataset
        waiting += _list(dataset.get("subdatasets"), where, "subdatasets")


def _scores(dataset: dict[str, Any], where: str) -> Iterator[Score]:
    name, seen = dataset["dataset"], Counter[str]()
    for row in _list(dataset["sota"].get("rows"), where, "rows"):
        model = row.get("model_name") if isinstance(row, dict) else None
        place = f"{where}: {name}: {model}"
        if not model or not isinstance(model, str) or not isinstance(row.get("metrics"), dict):
            raise UserError(f"{place}: a row without model_name or metrics")
        if isinstance(own := row.get("biomistral"), dict):
            yield score_of(own, place)
            continue
        seen[model] += 1  # the site lists a model once a paper
        told = str(model) if seen[model] == 1 else f"{model} ({row.get('paper_title') or seen[model]})"
        for metric, value in row["metrics"].items():
            if _ACCURACY.fullmatch(metric):
                yield _reported(told, str(name), metric, value, place)


def _reported(model: str, task: str, metric: str, value: Any, place: str) -> Score:
    match = _NUMBER.fullmatch(str(value))
    number = float(match[1]) if match else -1.0
    if match is None or number > 100:
        raise UserError(f"{place}: {metric}: {value!r} is no percentage")
    # the site's convention is percent; "0.726" is a fraction, for no model of a published table is below one percent
    share = number / 100 if match[2] or number > 1 else number
    return Score(model, "", "", f"reported: {metric}", "", task, None, share, None, None, None, ORIGIN)
