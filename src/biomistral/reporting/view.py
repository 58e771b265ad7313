"""What the page says, as plain data: the same that ``results.json`` beside it holds. No HTML here."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from biomistral.assets import licence_of
from biomistral.reporting.compare import Difference, against, boards, not_beaten
from biomistral.reporting.lineage import Node, label, licence_words, lineage_of
from biomistral.reporting.results import Results, Run

LETTER_MASS_FOLLOWED = 0.5
"""Below this mean probability on the option letters a model did not follow the prompt (SPEC section 3)."""


def board_view(board: Sequence[Run], baseline_name: str, root: int) -> dict[str, Any]:
    """One table: the runs of one protocol on the same questions, best first, with paired differences to the baseline."""
    runs = sorted(board, key=lambda run: (-run.summary.overall.accuracy, run.model.name))
    baseline = next((run for run in board if run.model.name == baseline_name), None)
    first = board[0]
    groups, tasks = list(first.summary.groups), list(first.summary.tasks)
    differences: dict[str, dict[str, Difference]] = {}
    if baseline is not None:
        for kind, scope in [("overall", "overall"), *(("group", name) for name in groups)]:
            for name, difference in against(baseline, board, kind, scope, root).items():
                differences.setdefault(name, {})[scope] = difference
    leader, tied = not_beaten(board)
    return {
        "benchmark": first.benchmark.model_dump(), "protocol": first.protocol, "definition": first.summary.definition,
        "definition_hash": first.summary.definition_hash, "questions_hash": first.questions, "questions": len(first.scores),
        "shot_sets": first.shot_sets, "chance": first.chance, "groups": groups, "tasks": tasks if len(tasks) > 1 else [],
        "baseline": baseline.model.name if baseline else None, "leader": leader, "tied_with_leader": tied,
        "finding": _finding(runs, baseline, differences),
        "rows": [_row(run, run is baseline, differences.get(run.model.name, {}),
                      run.model.name == leader and len(runs) > 1 and not tied) for run in runs]}


def _row(run: Run, is_baseline: bool, differences: dict[str, Difference], is_best: bool) -> dict[str, Any]:
    summary = run.summary
    return {**run.model.model_dump(), "model": run.model.name, "is_baseline": is_baseline, "is_best": is_best,
            "overall": summary.overall.model_dump(), "average": summary.average,
            "groups": {name: score.model_dump() for name, score in summary.groups.items()},
            "tasks": {name: score.model_dump() for name, score in summary.tasks.items()},
            "differences": {scope: _difference(value) for scope, value in differences.items()},
            "calibration": summary.calibration.model_dump() if summary.calibration else None,
            "degenerate": summary.degenerate.model_dump() if summary.degenerate else None,
            "seconds": summary.seconds, "questions_per_second": summary.questions_per_second, "warnings": _warnings(run)}


def _difference(value: Difference) -> dict[str, Any]:
    return {**asdict(value), "direction": value.direction, "significant": value.significant}


def _warnings(run: Run) -> list[str]:
    """What a reader must know before believing the row, in words."""
    found, summary = [], run.summary
    if summary.degenerate is not None:
        bad = summary.degenerate
        found.append(f"Answers {bad.letter} to {100 * bad.share:.0f} % of the questions (always answering {bad.letter} scores "
                     f"{100 * bad.score_of_always:.1f} %): this is a habit, not knowledge.")
    mass = summary.overall.letter_mass
    if mass is not None and mass < LETTER_MASS_FOLLOWED:
        found.append(f"The option letters hold only {100 * mass:.0f} % of its probability: it did not follow the prompt.")
    low, high = summary.overall.interval
    if low <= run.chance <= high:
        found.append(f"Not shown to differ from guessing ({100 * run.chance:.0f} %).")
    return found


def _finding(runs: Sequence[Run], baseline: Run | None, differences: dict[str, dict[str, Difference]]) -> dict[str, Any] | None:
    """The board's finding: the best model against the baseline, on taught questions if the benchmark knows them.

    ``control`` is the same model on the other group: what was not taught should not have moved.
    """
    others = [run for run in runs if run is not baseline]
    if baseline is None or not others:
        return None
    groups = list(baseline.summary.groups)
    scope = "taught" if "taught" in groups else "overall"
    best = max(others, key=lambda run: (differences[run.model.name][scope].accuracy, run.summary.overall.accuracy))
    mine = differences[best.model.name]
    return {"model": best.model.name, "baseline": baseline.model.name, "compared": len(others), "scope": scope,
            "main": _difference(mine[scope]),
            "control": _difference(mine["untaught"]) if scope == "taught" and "untaught" in mine else None}


def lineage_view(result: Results) -> dict[str, Any]:
    """The chain of one results folder for the page: no path of the machine that made it, each artifact written out once."""
    node = lineage_of(result.artifact)
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
        return {name: _without_paths(item, names) for name, item in value.items()}
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


def page_view(results: Sequence[Results], baseline: str, protocol: str, root: int) -> dict[str, Any]:
    """Everything the page shows. Boards whose protocol is ``protocol`` come first."""
    runs = [run for result in results for run in result.runs.values()]
    tables = sorted(boards(runs), key=lambda board: board[0].protocol != protocol)
    return {"baseline": baseline, "boards": [board_view(board, baseline, root) for board in tables],
            "lineage": [lineage_view(result) for result in results], "published": published()}
