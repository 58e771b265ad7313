"""The ``reported`` stage: a file of results that others measured becomes a folder that stands beside ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.reporting.exports.export import read_export
from biomistral.reporting.exports.scores import as_reported
from biomistral.reporting.imported import KIND, from_lm_eval, groups
from biomistral.reporting.settings import ImportedResultsSettings


def bring(work: Workspace) -> None:
    """Write ``reported.json`` (docs/formats.md) of a file in any of the forms that are read.

    Raises:
        UserError: the file is in none of them, is not sound, holds no accuracy, or is about several models and one name is given.
    """
    settings: ImportedResultsSettings = work.settings
    reported = _reported(work.locate(settings.file), settings.name)
    write_json(work.path / f"{KIND}.json", reported)
    found = [(name, one) for entry in groups(reported) for name, one in entry["protocols"].items()]
    models = {entry["model"]["name"] for entry in groups(reported)}
    tasks = {task for _, one in found for task in one["tasks"]}
    work.counts = {"protocols": len({name for name, _ in found}), "tasks": len(tasks)}
    if len(models) > 1:
        work.counts["models"] = len(models)


def _reported(path: Path, name: str) -> dict[str, Any]:
    scores = read_export(path)
    if scores is None:
        return from_lm_eval(path, name)
    if name:
        if len(models := sorted({score.model for score in scores})) > 1:
            raise UserError(f"--name {name}: {path} is about {len(models)} models ({models[0]}, ...); leave it out")
        scores = [replace(score, model=name) for score in scores]
    return as_reported(scores)
