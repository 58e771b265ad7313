"""The score of a set of answers: how many are right, how sure that is, how well the prompt was followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from biomistral.statistics import cluster_interval, spread

Row = dict[str, Any]


def score(rows: Sequence[Row]) -> dict[str, Any]:
    """One SCORE: ``n`` questions, ``right`` the mean number right over shot sets and permutations, accuracy with its 95 %
    interval (clustered by what is asked), population spread over the shot sets, and means of letter mass and open accuracy.
    """
    questions = len(set(map(identity, rows)))
    sets = [float(np.mean([row["right"] for row in found])) for found in split_by(rows, "shot_set").values()]
    accuracy = float(np.mean([row["right"] for row in rows]))
    return {"n": questions, "right": sum(row["right"] for row in rows) * questions / len(rows), "accuracy": accuracy,
            "interval": list(cluster_interval(_clusters(rows))), "spread": spread(sets),
            "letter_mass": _mean(rows, "letter_mass"), "open_accuracy": _mean(rows, "open_right"), **_of_texts(rows),
            **_of_truth(rows)}


def identity(row: Row) -> tuple[str, str]:
    """Language and id of a row's question (`Question.identity`)."""
    return row.get("language", ""), row["question"]


def _clusters(rows: Sequence[Row]) -> list[list[bool]]:
    """Answers to the same question: in all shot sets, permutations, tasks and languages."""
    found: dict[object, list[bool]] = {}
    for row in rows:
        found.setdefault(row.get("cluster") or identity(row), []).append(row["right"])
    return list(found.values())


def _of_texts(rows: Sequence[Row]) -> dict[str, Any]:
    """Of answers in words: the share that could be read, and the accuracy among those (``accuracy`` counts the rest as not
    right)."""
    if all(row.get("said") is None for row in rows):
        return {}
    read = [row["right"] for row in rows if row["unparsed"] is None]
    return {"parsed": len(read) / len(rows), "accuracy_of_parsed": float(np.mean(read)) if read else None}


def _of_truth(rows: Sequence[Row]) -> dict[str, Any]:
    """MC1 is the accuracy; MC2 the mean share of probability of the true answers."""
    return {} if any(row.get("truth_mass") is None for row in rows) else {"mc2": _mean(rows, "truth_mass")}


def split_by(rows: Sequence[Row], field: str) -> dict[str, list[Row]]:
    """Rows by what they hold in a field, in their order."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[field], []).append(row)
    return parts


def _mean(rows: Sequence[Row], field: str) -> float | None:
    values = [row[field] for row in rows]
    return None if None in values else float(np.mean(values))
