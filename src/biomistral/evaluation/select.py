"""The ``select`` stage: a copy of the candidate that scored best on a validation split."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from biomistral.artifact import MANIFEST, Workspace, input_key, open_artifact
from biomistral.errors import UserError
from biomistral.evaluation.settings import SelectSettings
from biomistral.files import files_under, write_json


def select(work: Workspace) -> None:
    """Write the best candidate's model folder (hard links where the disk allows them) and ``selection.json``.

    Of equal scores the first listed wins.

    Raises:
        UserError: a candidate has no score, or two, or scores come from different questions.
    """
    settings: SelectSettings = work.settings
    scores = _scores(work)
    chosen = max(scores, key=lambda name: scores[name])  # the first of equals: max keeps the earliest
    source = work.locate(settings.candidates[chosen])
    for file in files_under(source):
        if file.name != MANIFEST or file.parent != source:
            link(file, work.path / file.relative_to(source))
    write_json(work.path / "selection.json", {"chosen": chosen, "scores": scores, "protocol": settings.protocol,
                                              "group": settings.group or None, "metric": settings.metric})
    manifest = open_artifact(source).manifest if (source / MANIFEST).is_file() else {}
    work.counts, work.licences = dict(manifest.get("counts", {})), dict(manifest.get("licences", {}))
    work.facts = {"chosen": chosen, "scores": scores}


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that cannot be (another disk); never half a file under its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def _scores(work: Workspace) -> dict[str, float]:
    """The deciding score of each candidate, in the order they are listed."""
    settings: SelectSettings = work.settings
    names: dict[str, list[str]] = {}
    for name, candidate in settings.candidates.items():
        names.setdefault(input_key(work.locate(candidate)), []).append(name)
    scores: dict[str, float] = {}
    asked: dict[str, Path] = {}
    for place in map(work.locate, settings.results):
        results = _read(place)
        if not (found := names.get(results["model"]["key"])):
            continue
        if found[0] in scores:
            raise UserError(f"{place}: a second result of candidate '{found[0]}'; leave one of them out")
        summary = results["protocols"].get(settings.protocol)
        score = summary and (summary["groups"].get(settings.group) if settings.group else summary["overall"])
        if not score:
            what = f"group '{settings.group}' under {settings.protocol}" if settings.group else settings.protocol
            raise UserError(f"{place}: has no score for {what}; evaluate the candidates with it")
        asked[json.dumps([results["benchmark"], summary["definition_hash"], score["n"]], sort_keys=True)] = place
        scores |= {name: float(score[settings.metric]) for name in found}
    if missing := [name for name in settings.candidates if name not in scores]:
        raise UserError(f"candidate '{missing[0]}' ({settings.candidates[missing[0]]}): none of the results folders is about it")
    if len(asked) > 1:
        raise UserError(f"{' and '.join(map(str, asked.values()))}: differ in benchmark, split, limit or prompt, so their scores "
                        "do not compare; evaluate all candidates alike")
    return {name: scores[name] for name in settings.candidates}


def _read(place: Path) -> dict[str, Any]:
    open_artifact(place, "evaluate")
    return dict(json.loads((place / "results.json").read_text(encoding="utf-8")))
