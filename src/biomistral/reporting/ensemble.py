"""Several models as one, from their answers alone: option probabilities are added up and the highest sum answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.records import LETTERS, read_rows
from biomistral.reporting.results import read_results
from biomistral.scoring.tally import Row, score, split_by

_Key = tuple[str, str, int]
_SAME = ("answer", "options", "task", "prompt_hash")


def ensemble(folders: Sequence[Path]) -> dict[str, Any]:
    """Scores of the models together and of each alone, by protocol: those that all folders have, with probabilities.

    Raises:
        UserError: fewer than two folders, one cannot be read, or they have no protocol with the same questions, put alike.
    """
    if len(folders) < 2:
        raise UserError(f"an ensemble takes two results folders or more, {len(folders)} given")
    names = [read_results(folder).model.name for folder in folders]
    answers = [_by_key(folder) for folder in folders]
    together = [_joined(rows) for rows in _aligned(answers, folders)]
    members = [[found[_key(row)] for row in together] for found in answers]
    return {protocol: {"ensemble": _scores(rows), "members": {
        f"{name}" if names.count(name) == 1 else f"{name} ({folder})": _scores(split_by(own, "protocol")[protocol])
        for name, folder, own in zip(names, folders, members, strict=True)}} for protocol, rows in
        split_by(together, "protocol").items()}


def _key(row: Row) -> _Key:
    return row["protocol"], row["question"], row["shot_set"]


def _by_key(folder: Path) -> dict[_Key, Row]:
    return {_key(row): row for row in read_rows(folder / "answers.parquet") if row["probabilities"] is not None}


def _aligned(answers: Sequence[dict[_Key, Row]], folders: Sequence[Path]) -> list[list[Row]]:
    """The rows of every question and shot set, one a model; a protocol whose questions are not the same in all is refused."""
    shared = set.intersection(*({protocol for protocol, _, _ in found} for found in answers))
    if not shared:
        raise UserError(f"{', '.join(map(str, folders))}: no protocol with probabilities in common; evaluate all with one")
    first, *others = ({key: row for key, row in found.items() if key[0] in shared} for found in answers)
    for folder, other in zip(folders[1:], others, strict=True):
        odd = first.keys() ^ other.keys() or {key for key, row in first.items()
                                              if any(row[name] != other[key][name] for name in _SAME)}
        if odd:
            protocol, question, _ = min(odd)
            raise UserError(f"{folders[0]} and {folder}: question {question!r} was not asked alike under {protocol}; evaluate "
                            "all models on the same benchmark, limit and seed")
    return [[row, *(other[key] for other in others)] for key, row in first.items()]


def _joined(rows: Sequence[Row]) -> Row:
    """One answer of several models; of equal sums the first letter."""
    probabilities = np.mean([row["probabilities"] for row in rows], axis=0)
    chosen = LETTERS[int(probabilities.argmax())]
    return {**rows[0], "model": "ensemble", "chosen": chosen, "right": chosen == rows[0]["answer"], "letter_mass": None,
            "open_right": None, "said": None, "truth_mass": None, "probabilities": probabilities.tolist()}


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    tasks = {task: score(found) for task, found in split_by(rows, "task").items()}
    return {"tasks": tasks, "overall": score(rows), "average": float(np.mean([found["accuracy"] for found in tasks.values()]))}


def render(found: dict[str, Any]) -> str:
    """A line a model, the ensemble last: average of the tasks, and accuracy over all questions with its 95 % interval."""
    lines = []
    for protocol, both in found.items():
        lines.append(f"{protocol}: average of {len(both['ensemble']['tasks'])} tasks, all questions")
        for name, scores in (*both["members"].items(), ("ensemble", both["ensemble"])):
            overall = scores["overall"]
            low, high = overall["interval"]
            lines.append(f"  {name[:40]:40} {100 * scores['average']:6.1f} {100 * overall['accuracy']:6.1f} "
                         f"[{100 * low:.1f}, {100 * high:.1f}]")
    return "\n".join(lines)
