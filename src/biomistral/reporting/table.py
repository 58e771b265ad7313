"""Results as a table for the terminal: a row a task, a column a model, one table a protocol."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomistral.reporting import language_table
from biomistral.reporting.compare import boards
from biomistral.reporting.pairwise import pairs
from biomistral.reporting.results import read_results


def read(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """``results.json`` of every folder."""
    return [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders]


def ranks_of(folders: Sequence[Path]) -> dict[str, list[int]]:
    """Ranks with ties by protocol, in the order of the folders: where there are several, asked the same questions."""
    runs = [run for folder in folders for run in read_results(folder).runs.values()]
    return {board[0].protocol: pairs(board).ranks() for board in boards(runs) if len(board) == len(folders) > 1}


def render(results: Sequence[dict[str, Any]], ranks: Mapping[str, Sequence[int]]) -> str:
    """Accuracies in percent with their 95 % intervals; under each table the unweighted mean of its tasks, as in the paper, and
    the models' ranks; where several languages were asked, a table of them for each model."""
    tables = []
    for name in dict.fromkeys(name for result in results for name in result["protocols"]):
        found = [result for result in results if name in result["protocols"]]
        tables.append(_table(name, found, ranks.get(name, ())))
        tables += [language_table.rows(name, result) for result in found]
    return "\n\n".join(_aligned(table) for table in tables if table)


def _table(protocol: str, results: Sequence[dict[str, Any]], ranks: Sequence[int]) -> list[list[str]]:
    scores = [result["protocols"][protocol] for result in results]
    tasks = dict.fromkeys(task for score in scores for task in score["tasks"])
    languages = max(len(score.get("languages") or ()) for score in scores)
    title = f"{protocol}, {languages} languages" if languages > 1 else protocol
    rows = [[title, "questions", *(result["model"]["name"] for result in results)]]
    for task in tasks:
        found = [score["tasks"].get(task) for score in scores]
        rows.append([task, str(next(one["n"] for one in found if one)), *(_cell(one) if one else "-" for one in found)])
    rows.append(["average of tasks", "", *(f"{100 * score['average']:.1f}" for score in scores)])
    for name, field in (("MC2", "mc2"), ("answers that could be read", "parsed"), ("right among those", "accuracy_of_parsed")):
        if any(score["overall"].get(field) is not None for score in scores):
            rows.append([name, "", *(_percent(score["overall"].get(field)) for score in scores)])
    rows += _sensitivities(scores)
    rows += [["rank (paired test, Holm)", "", *map(str, ranks)]] if ranks else []
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, numbers of questions to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [column for column, name in enumerate(rows[0]) if name == "questions"]
    return "\n".join("  ".join(cell.rjust(width) if column in right else cell.ljust(width)
                               for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)


def _sensitivities(scores: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What other shots and other orders of the options change."""
    rows = []
    for field, one in (("shot_sets", "shot sets"), ("permutations", "permutations")):
        found = [score.get(field) for score in scores]
        if any(found):
            rows.append([f"all questions, by {one}", "", *(
                " ".join(_percent(share) for share in each["accuracies"]) if each else "-" for each in found)])
            rows.append([f"answers that change with {one}", "", *(_percent(each and each["changed"]) for each in found)])
    return rows


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _cell(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    spread = f" ±{100 * score['spread']:.1f}" if score["spread"] else ""
    return f"{100 * score['accuracy']:.1f}{spread} [{100 * low:.1f}, {100 * high:.1f}]"
