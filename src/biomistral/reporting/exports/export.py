"""``biomistral results export``: results in a form that others read; and reading those forms again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.reporting.exports import latex, papers_with_code, sheets
from biomistral.reporting.exports.scores import Score, plain, published, read, score_of
from biomistral.reporting.record import is_record, read_record

Format = Literal["pwc", "csv", "latex", "json"]
FORMAT = "biomistral results 1"
_ORIGIN = "biomistral, without its answers"


def export(folders: Sequence[Path], form: Format, out: Path, paper: tuple[str, str] = ("", ""),
           with_published: bool = False) -> list[Score]:
    """Write the scores of results folders, measured or imported, to a file, and those of the paper if asked; returns them.

    Raises:
        UserError: a folder is not sound or holds no results.
    """
    measured, scores = read(folders)
    scores += published() if with_published else []
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        write_text(out, sheets.write(scores))
    elif form == "latex":
        runs = [run for results in measured for run in results.runs.values()]
        own = sum(len(run.summary.tasks) for run in runs)
        write_text(out, latex.write(runs, scores[own:]))
    elif form == "pwc":
        write_json(out, papers_with_code.write(scores, paper))
    else:
        write_json(out, {"format": FORMAT, "scores": [plain(score) for score in scores]})
    return scores


def read_export(path: Path) -> list[Score] | None:
    """The scores of a file that is one of ours (JSON, CSV, ``results.json`` of a results folder or of a site) or holds
    Papers-with-Code's tables; None if it is another JSON file.

    Raises:
        UserError: it cannot be read, or is one of these and not sound.
    """
    sheet = path.suffix.lower() == ".csv"
    try:
        text = path.read_text(encoding="utf-8")
        data: Any = None if sheet else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {'CSV' if sheet else 'JSON'} ({error})") from error
    if sheet:
        return _some(sheets.read(text, str(path)), path)
    if papers_with_code.is_tables(data):
        return _some(papers_with_code.read(data, str(path)), path)
    if isinstance(data, dict) and data.get("format") == FORMAT and isinstance(data.get("scores"), list):
        return _some([score_of(one, f"{path}: score {number}") for number, one in enumerate(data["scores"], 1)], path)
    if isinstance(data, dict) and {"model", "benchmark", "protocols"} <= data.keys():
        return _some(_summary(data, path), path)
    return _some(_site(data, path), path) if is_record(data) else None


def _some(scores: list[Score], path: Path) -> list[Score]:
    if not scores:
        raise UserError(f"{path}: holds no score")
    return scores


def _summary(data: dict[str, Any], path: Path) -> list[Score]:
    """A ``results.json`` without its answers: it cannot be proved here, so it counts as reported."""
    from pydantic import ValidationError

    from biomistral.reporting.results_file import Summary

    try:
        summary = Summary.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}") from error
    benchmark = summary.benchmark
    return [Score(summary.model.name, benchmark.name, benchmark.split, protocol, one.definition_hash, task, score.n,
                  score.accuracy, *score.interval, score.spread, _ORIGIN)
            for protocol, one in summary.protocols.items() for task, score in one.tasks.items()]


def _site(data: dict[str, Any], path: Path) -> list[Score]:
    """A site's ``results.json``: what was measured for it, task by task, proved as little here."""
    try:
        found = [{"model": row["model"], "benchmark": board["benchmark"]["name"], "split": board["benchmark"]["split"],
                  "protocol": board["protocol"], "definition_hash": board["definition_hash"], "task": task,
                  "questions": score["n"], "accuracy": score["accuracy"], "low": score["interval"][0],
                  "high": score["interval"][1], "spread": score["spread"] if board["shot_sets"] > 1 else None,
                  "origin": _ORIGIN}
                 for board in read_record(data)["boards"] for row in board["rows"] for task, score in row["tasks"].items()]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: not what 'report' writes ({error!r}); report again") from error
    return [score_of(one, f"{path}: score {number}") for number, one in enumerate(found, 1)]
