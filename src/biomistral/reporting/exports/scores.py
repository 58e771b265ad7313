"""One score as every export holds it, taken from results measured here or from imported ones."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from biomistral import __version__
from biomistral.artifact import is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.recipe import canonical_hash
from biomistral.reporting.imported import KIND, groups, read_imported
from biomistral.reporting.results import Results, Run, read_all


@dataclass(frozen=True)
class Score:
    """One model on one task under one protocol; accuracies are fractions, ``origin`` says who measured."""

    model: str
    benchmark: str
    split: str
    protocol: str
    definition_hash: str
    task: str
    questions: int | None
    accuracy: float
    low: float | None
    high: float | None
    spread: float | None
    origin: str

    @property
    def table(self) -> tuple[str, ...]:
        """What has to be equal before two scores may stand in one table."""
        return (self.benchmark, self.split, self.protocol, self.definition_hash, self.origin)


TEXT = tuple(field.name for field in fields(Score) if field.type in ("str", str))
NUMBERS = tuple(field.name for field in fields(Score) if field.name not in TEXT)


def read(folders: Sequence[Path]) -> tuple[list[Results], list[Score]]:
    """The measured results among these folders, and the scores of all, the imported ones marked by their origin.

    Raises:
        UserError: a folder is neither, or not sound.
    """
    imported = [folder for folder in folders if is_artifact(folder) and open_artifact(folder).kind == KIND]
    measured = read_all(folder for folder in folders if folder not in imported)
    runs = [run for results in measured for run in results.runs.values()]
    scores = [score for run in runs for score in of_run(run)]
    return measured, scores + [score for folder in imported for score in of_reported(read_imported(folder))]


def of_run(run: Run) -> list[Score]:
    """The scores of a run, task by task."""
    benchmark, summary = run.benchmark, run.summary
    return [Score(run.model.name, benchmark.name, benchmark.split, run.protocol, summary.definition_hash, task, score.n,
                  score.accuracy, *score.interval, score.spread if run.shot_sets > 1 else None, f"biomistral {__version__}")
            for task, score in summary.tasks.items()]


def of_reported(reported: dict[str, Any]) -> list[Score]:
    """The scores of ``reported.json``, as they were brought in."""
    found = []
    for one in groups(reported):
        for protocol, scores in one["protocols"].items():
            about = scores["definition"]
            for task, score in scores["tasks"].items():
                low, high = score["interval"] or (None, None)
                found.append(Score(
                    one["model"]["name"], about.get("benchmark", ""), about.get("split", ""), protocol,
                    about.get("definition_hash", scores["definition_hash"]), task, score["n"], score["accuracy"], low, high,
                    score.get("spread"), one["harness"]))
    return found


def published() -> list[Score]:
    """The results of the BioMistral paper (SPEC section 7), as it reports them: without intervals, under its own protocols."""
    text = resources.files("biomistral.reporting").joinpath("published.tsv").read_text(encoding="utf-8")
    fixed = ("model", "protocol", "source", "average")
    return [Score(row["model"], "bioinstructqa", "test", row["protocol"], "", task, None, round(float(value) / 100, 6), None,
                  None, None, row["source"])
            for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
            for task, value in row.items() if task not in fixed]


def as_reported(scores: Sequence[Score]) -> dict[str, Any]:
    """``reported.json`` of scores that others measured: one entry a model and table, its definition what the file says of it.

    Raises:
        UserError: a model has two scores of one task in one table.
    """
    entries: dict[tuple[str, ...], dict[str, Any]] = {}
    for score in scores:
        definition = {"benchmark": score.benchmark, "split": score.split, "definition_hash": score.definition_hash}
        entry = entries.setdefault((score.model, *score.table), {
            "model": {"name": score.model, "dtype": None, "parameters": None}, "harness": score.origin,
            "protocols": {score.protocol: {"tasks": {}, "definition": definition, "definition_hash": canonical_hash(
                [definition, score.origin])}}})
        tasks = entry["protocols"][score.protocol]["tasks"]
        if score.task in tasks:
            raise UserError(f"{score.model!r} has two scores of {score.task!r} under {score.protocol!r}; leave one of them out")
        interval = None if score.low is None or score.high is None else [score.low, score.high]
        tasks[score.task] = {"n": score.questions, "accuracy": score.accuracy, "interval": interval, "spread": score.spread}
    for entry in entries.values():
        for one in entry["protocols"].values():
            one["average"] = sum(score["accuracy"] for score in one["tasks"].values()) / len(one["tasks"])
    return {"several": list(entries.values())}


def score_of(data: Any, where: str) -> Score:
    """A score from plain data, checked.

    Raises:
        UserError: a field is missing, or is no such value.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: {data!r} is no score")
    missing = [name for name in ("model", "protocol", "task", "accuracy") if data.get(name) in (None, "")]
    if missing:
        raise UserError(f"{where}: has no {missing[0]!r}")
    text: dict[str, Any] = {name: str(data.get(name) or "") for name in TEXT}
    questions = _number(data.get("questions"), where, "questions", 1e12)
    if questions is not None and (questions != int(questions) or questions < 1):
        raise UserError(f"{where}: questions: {questions!r} is no number of questions")
    shares = {name: _number(data.get(name), where, name, 1.0) for name in ("accuracy", "low", "high", "spread")}
    accuracy = shares.pop("accuracy")
    assert accuracy is not None
    low, high = shares["low"], shares["high"]
    if (low is None) != (high is None) or (low is not None and high is not None and not low <= accuracy <= high):
        raise UserError(f"{where}: accuracy {accuracy} is not inside its interval [{low}, {high}]")
    return Score(**text, questions=None if questions is None else int(questions), accuracy=accuracy, low=low, high=high,
                 spread=shares["spread"])


def _number(value: Any, where: str, name: str, most: float) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= most:  # NaN is not inside either
        what = "share (0 to 1)" if most == 1 else "number"
        raise UserError(f"{where}: {name}: {value!r} is no {what}")
    return number


def plain(score: Score) -> dict[str, Any]:
    """A score as plain data."""
    return asdict(score)
