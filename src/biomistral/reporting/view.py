"""What the pages say, as plain data: the same that ``results.json`` beside them holds. No HTML here."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from biomistral.assets import licence_of
from biomistral.recipe import canonical_hash
from biomistral.reporting.compare import Difference, against
from biomistral.reporting.lineage import Node, label, licence_words
from biomistral.reporting.pairwise import pairs
from biomistral.reporting.results import Results, Run
from biomistral.scoring.caveats import degenerate_words, follows_prompt, not_followed_words, unparsed_words

Differences = dict[tuple[str, str], dict[str, Difference]]
"""By (kind, name) of the questions compared over, then by model."""

_OVERALL = ("overall", "overall")
PROTOCOL_WORDS = {
    "letters": "Multiple choice, answered by letter", "medconceptsqa": "MedConceptsQA, answered by letter",
    "chat": "Chat, answered by letter", "generate": "Answered in the model's own words",
    "chat-generate": "Chat, answered in the model's own words",
    "medconceptsqa-generate": "MedConceptsQA, answered in the model's own words",
    "truthful": "Truthfulness, answered by letter", "truthful-generate": "Truthfulness, answered in the model's own words",
    "translated": "Asked in the question's language, answered by letter",
    "translated-generate": "Asked in the question's language, answered in the model's own words",
    "cloze-sum": "Cloze: the likeliest answer text", "cloze-mean": "Cloze: the likeliest answer text per token"}


def board_view(board: Sequence[Run], baseline_name: str, root: int) -> dict[str, Any]:
    """One table: the runs of one protocol on the same questions, best first, with paired differences to the baseline.

    Ranks are shared where the paired test tells two rows apart no more; ``best`` names, for all questions, each group, language
    and task, and each task of each language, the one row that it tells from every other, or None.
    """
    runs = sorted(board, key=lambda run: (-run.summary.overall.accuracy, run.model.name))
    baseline = next((run for run in board if run.model.name == baseline_name), None)
    first = board[0]
    groups, tasks = first.group_names, list(first.summary.tasks)
    languages, asked = _languages(runs), first.questionnaire.languages.names
    ranks = {language: pairs(runs, "language", language).ranks() for language in languages}
    scopes = [_OVERALL, *(("group", name) for name in groups)]
    differences = {scope: against(baseline, board, *scope, root) for scope in scopes} if baseline else {}
    everywhere = pairs(runs)
    leader, tied = runs[everywhere.leader()].model.name, [runs[place].model.name for place in everywhere.not_beaten()]
    return {
        "id": f"{first.protocol}~{canonical_hash(list(first.board))[:12]}", "benchmark": first.benchmark.model_dump(),
        "protocol": first.protocol, "protocol_words": protocol_words(first.protocol),
        "definition": first.summary.definition,
        "definition_hash": first.summary.definition_hash, "questions_hash": first.questions, "questions": len(first.scores),
        "shot_sets": first.shot_sets, "chance": first.chance, "groups": groups, "tasks": tasks if len(tasks) > 1 else [],
        "baseline": baseline.model.name if baseline else None, "leader": leader, "tied_with_leader": tied,
        "scale": min(1.0, math.ceil(10 * max(run.summary.overall.interval[1] for run in runs)) / 10),
        "has_letter_mass": any(run.summary.overall.letter_mass is not None for run in runs),
        "permutations": first.permutations,
        "has_calibration": any(run.summary.calibration is not None for run in runs),
        "finding": _finding(runs, baseline, differences), "languages": languages,
        "without_languages": [run.model.name for run in runs if not run.summary.languages] if len(asked) > 1 else [],
        "best": _best(runs, tasks, languages),
        "rows": [{**_row(run, run is baseline, run.model.name == leader and len(runs) > 1 and not tied, differences),
                  "rank": rank, "ranks": {language: own[place] for language, own in ranks.items()}}
                 for place, (run, rank) in enumerate(zip(runs, everywhere.ranks(), strict=True))]}


def _languages(runs: Sequence[Run]) -> list[str]:
    """The languages that every row has scores in, if there are several; folders of early versions have none."""
    found = [name for name in runs[0].summary.languages if all(name in run.summary.languages for run in runs)]
    return found if len(found) > 1 else []


def _best(runs: Sequence[Run], tasks: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
    """The models that the paired test tells from every other one, by what they are best at."""
    def name(kind: str, scope: str, language: str = "") -> str | None:
        place = pairs(runs, kind, scope, language).best()
        return None if place is None else runs[place].model.name

    own = {language: runs[0].summary.languages[language].tasks for language in languages}
    return {"overall": name("overall", "overall"), "groups": {group: name("group", group) for group in runs[0].group_names},
            "tasks": {task: name("task", task) for task in tasks},
            "languages": {language: name("language", language) for language in languages},
            "cells": {language: {task: name("task", task, language) for task in own[language]} for language in languages}}


def protocol_words(protocol: str) -> str:
    """A protocol's name in words: ``letters-3shot`` -> ``Multiple choice, answered by letter, 3 examples``."""
    family, _, shots = protocol.rpartition("-")
    if protocol in PROTOCOL_WORDS or family not in PROTOCOL_WORDS or not shots.endswith("shot"):
        return PROTOCOL_WORDS.get(protocol, protocol)
    number = shots.removesuffix("shot")
    return f"{PROTOCOL_WORDS[family]}, {'no examples' if number == '0' else f'{number} examples'}"


def _row(run: Run, is_baseline: bool, is_best: bool, differences: Differences) -> dict[str, Any]:
    summary = run.summary
    mine = {scope: _difference(found.get(run.model.name)) for scope, found in differences.items()}
    return {**run.model.model_dump(), "model": run.model.name, "about": _about(run), "is_baseline": is_baseline,
            "is_best": is_best, "overall": summary.overall.model_dump(), "average": summary.average,
            "groups": {name: score.model_dump() for name, score in summary.groups.items()},
            "tasks": {name: score.model_dump() for name, score in summary.tasks.items()},
            "difference": mine.get(_OVERALL), "group_differences": {name: mine.get(("group", name)) for name in summary.groups},
            "languages": {name: scores.model_dump() for name, scores in summary.languages.items()},
            "fertility": run.fertility.model_dump() if run.fertility else None,
            "calibration": summary.calibration.model_dump() if summary.calibration else None,
            "permutations": summary.permutations.model_dump() if summary.permutations else None,
            "degenerate": summary.degenerate.model_dump() if summary.degenerate else None,
            "seconds": summary.seconds, "questions_per_second": summary.questions_per_second, "warnings": warnings(run)}


def _about(run: Run) -> str:
    """Size and precision in a few words: ``135 M, bfloat16, awq``."""
    size, words = run.model.parameters, ""
    if size is not None:
        words = f"{size / 1e9:.1f} B" if size >= 1e9 else f"{size / 1e6:.0f} M" if size >= 1e6 else f"{size:,}"
    return ", ".join(part for part in (words, run.model.dtype, run.model.quantization) if part)


def _difference(value: Difference | None) -> dict[str, Any] | None:
    return None if value is None else {**asdict(value), "direction": value.direction, "significant": value.significant}


def warnings(run: Run) -> list[dict[str, str]]:
    """What a reader must know before believing the row, in words."""
    found, summary = [], run.summary
    if (bad := summary.degenerate) is not None:
        found.append({"short": f"mostly answers {bad.letter}", "text": degenerate_words(
            bad.letter, bad.share, bad.score_of_always, summary.overall.accuracy) + "."})
    if summary.unparsed:
        found.append({"short": "answers that cannot be read", "text": unparsed_words(
            summary.unparsed, summary.overall.accuracy, summary.overall.accuracy_of_parsed) + "."})
    mass = summary.overall.letter_mass
    if mass is not None and not follows_prompt(mass):
        found.append({"short": "did not follow the prompt", "text": not_followed_words(mass) + "."})
    low, high = summary.overall.interval
    if low <= run.chance <= high:
        found.append({"short": "like guessing", "text": f"is not shown to differ from guessing ({100 * run.chance:.0f} %)."})
    return found


def _finding(runs: Sequence[Run], baseline: Run | None, differences: Differences) -> dict[str, Any] | None:
    """The board's finding: the best model against the baseline, on taught questions if the benchmark knows them.

    ``control`` is the same model on the other group: what was not taught should not have moved.
    """
    others = [run for run in runs if run is not baseline]
    if baseline is None or not others:
        return None
    scope = ("group", "taught") if "taught" in baseline.summary.groups else _OVERALL
    best = max(others, key=lambda run: (differences[scope][run.model.name].accuracy, run.summary.overall.accuracy))
    control = differences.get(("group", "untaught"), {}) if scope != _OVERALL else {}
    return {"model": best.model.name, "baseline": baseline.model.name, "compared": len(others), "scope": scope[1],
            "main": _difference(differences[scope][best.model.name]), "control": _difference(control.get(best.model.name))}


def versions_note(results: Sequence[Results]) -> str:
    """Which models were evaluated by another version than the first, in words; nothing where all are of one."""
    def made(result: Results) -> tuple[str, int]:
        return str(result.artifact.manifest["made"]["biomistral"]), int(result.artifact.manifest["version"])

    first = made(results[0])
    others = dict.fromkeys(f"{result.model.name} by {made(result)[0]} (evaluate {made(result)[1]})"
                           for result in results if made(result) != first)
    return "" if not others else (f"Not all rows were measured by one version: {results[0].model.name} by {first[0]} (evaluate "
                                  f"{first[1]}), {', '.join(others)}; those not named as {results[0].model.name}.")


def lineage_view(result: Results) -> dict[str, Any]:
    """The chain of one results folder for the page: no path of the machine that made it, each artifact written out once."""
    node = result.lineage
    corpora = node.corpora()
    return {"model": result.model.name, "tree": _node_view(node, set()),
            "corpora": [{"content": part.content, "licences": part.licences, "words": licence_words(part.licences),
                         "counts": part.counts} for part in corpora],
            "made": result.artifact.manifest["made"]}


def _node_view(node: Node, seen: set[str]) -> dict[str, Any]:
    view: dict[str, Any] = {"kind": node.kind, "name": label(node), "key": node.key, "content": node.content,
                            "repeated": node.key in seen and bool(node.inputs)}
    if view["repeated"]:
        return view
    seen.add(node.key)
    licences = node.licences or ({licence: "this input"} if (licence := licence_of(node.name)) else {})
    names = {part.name: label(part) for part in node.inputs}
    return {**view, "counts": node.counts, "licences": licences, "licence_words": licence_words(licences),
            "settings": _without_paths(node.settings, names), "inputs": [_node_view(part, seen) for part in node.inputs]}


def _without_paths(value: Any, names: dict[str, str]) -> Any:
    """Settings with the places of inputs replaced by their short names."""
    if isinstance(value, dict):
        return {names.get(name, name): _without_paths(item, names) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def published() -> dict[str, Any]:
    """Results others reported, under their own protocols: shown for orientation, never ranked with measured rows."""
    text = resources.files("biomistral.reporting").joinpath("published.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    fixed = ("model", "protocol", "source")
    return {"tasks": [name for name in rows[0] if name not in fixed],
            "rows": [{**{name: row[name] for name in fixed},
                      "scores": {name: float(value) for name, value in row.items() if name not in fixed}} for row in rows]}
