"""The ``evaluate`` stage: ask, score, record every answer, resume where it was cut off, summarise."""

import importlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace, input_key
from biomistral.evaluation.answered import Answered, Engine
from biomistral.evaluation.summary import summarise, warnings
from biomistral.evaluation.translations import Together, read_together
from biomistral.files import write_json
from biomistral.progress import log
from biomistral.records import ANSWER_SCHEMA, Question, write_table
from biomistral.scoring.prompts import PROTOCOLS
from biomistral.scoring.tally import Row, identity

ENGINES = {"local": "biomistral.evaluation.local", "api": "biomistral.evaluation.api.stage"}


def evaluate(work: Workspace) -> None:
    """Write ``answers.parquet`` and ``results.json`` of one model on one benchmark (docs/formats.md, Results folder).

    Raises:
        UserError: see the ``answer`` functions of the engines.
    """
    settings = work.settings
    place = work.locate(settings.benchmark)
    together = read_together(place, [work.locate(name) for name in settings.translations], settings.split)
    questions = together.questions
    engine: Engine = importlib.import_module(ENGINES[settings.engine]).answer  # a model here needs no HTTP client
    answered = engine(work, questions)

    rows = _in_order(answered.rows, settings.protocols, questions)
    write_table(work.path / "answers.parquet", rows, ANSWER_SCHEMA)
    protocols = summarise(rows)
    about = _about(place)
    benchmark = {"name": about.get("name") or place.absolute().stem, "key": input_key(place), "split": settings.split,
                 "limit": settings.limit or None, "translations": together.about}
    name = answered.facts["name"]
    found = [*(f"{name}: {note}" for note in answered.notes), *warnings(name, protocols), *_lengths(name, answered, rows),
             *_alone(together)]
    for warning in found:
        log.warning(warning)
    write_json(work.path / "results.json", {
        "model": answered.facts, "benchmark": benchmark, "protocols": protocols, "fertility": _fertility(work, questions, rows),
        "warnings": found, "left_out": [list(one) for one in answered.left_out]})
    shutil.rmtree(work.path / "parts", ignore_errors=True)  # a cache has them elsewhere
    tasks = dict.fromkeys(row["task"] for row in rows)
    work.counts = {"answers": len(rows), "questions": len(set(map(identity, rows))), "tasks": len(tasks)}
    work.licences = Counter(entry["licence"] for task, entry in about.get("tasks", {}).items()
                            if task in tasks and entry.get("licence"))
    work.facts = {"model": answered.facts, "warnings": found, **answered.asked}


def _fertility(work: Workspace, questions: Sequence[Question], rows: Sequence[Row]) -> dict[str, Any] | None:
    """See `fertility.fertility`; None of a model on a server, whose tokenizer nobody knows."""
    if work.settings.engine == "api":
        return None
    from biomistral.evaluation.fertility import fertility
    from biomistral.models.folder import read_config
    from biomistral.models.tokens import open_tokenizer
    from biomistral.scoring.groups import context_length

    folder = work.locate(work.settings.model)
    return fertility(questions, rows, open_tokenizer(folder), context_length(read_config(folder)))


def _lengths(name: str, answered: Answered, rows: Sequence[Row]) -> list[str]:
    """What became of the prompts that are longer than the model reads."""
    lines = [f"{name}: {protocol}: prompts longer than the model reads, whose questions were left out: {count}"
             for protocol, count in Counter(protocol for protocol, *_ in answered.left_out).items()]
    fewer = Counter(row["protocol"] for row in rows if row["shots"] < PROTOCOLS[row["protocol"]].shots)
    return lines + [f"{name}: {protocol}: prompts longer than the model reads, which got fewer shots: {count}"
                    for protocol, count in fewer.items()]


def _alone(together: Together) -> list[str]:
    """Translated questions that nothing in English stands beside."""
    return [f"{one['name']}: {one['without_twin']} of {one['questions']} questions have no English one with their task and id: "
            "they count in no gap" for one in together.about if one["without_twin"]]


def _about(place: Path) -> dict[str, Any]:
    file = place / "benchmark.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if place.is_dir() and file.is_file() else {}


def _in_order(rows: Sequence[Row], protocols: Sequence[str], questions: Sequence[Question]) -> list[Row]:
    """Rows by protocol as asked for, by shot set, by permutation, then as the questions stand in the benchmark."""
    names = list(dict.fromkeys([*protocols, *(row["protocol"] for row in rows)]))
    places = {question.identity: number for number, question in enumerate(questions)}
    return sorted(rows, key=lambda row: (names.index(row["protocol"]), row["shot_set"], row["permutation"],
                                         places[identity(row)]))
