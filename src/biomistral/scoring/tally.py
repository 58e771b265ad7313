"""The score of a set of answers: how many are right, how sure that is, how well the prompt was followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from biomistral.statistics import cluster_interval, spread

Row = dict[str, Any]


def score(rows: Sequence[Row]) -> dict[str, Any]:
    """One SCORE: ``n`` questions, ``right`` the mean number right over the shot sets, accuracy with its 95 % interval
    (clustered by question), population spread over the shot sets, and means of letter mass and open accuracy.
    """
    questions = [[row["right"] for row in found] for found in split_by(rows, "question").values()]
    sets = [float(np.mean([row["right"] for row in found])) for found in split_by(rows, "shot_set").values()]
    accuracy = float(np.mean([row["right"] for row in rows]))
    return {"n": len(questions), "right": sum(row["right"] for row in rows) / len(sets), "accuracy": accuracy,
            "interval": list(cluster_interval(questions)), "spread": spread(sets), "letter_mass": _mean(rows, "letter_mass"),
            "open_accuracy": _mean(rows, "open_right")}


def split_by(rows: Sequence[Row], field: str) -> dict[str, list[Row]]:
    """Rows by what they hold in a field, in their order."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[field], []).append(row)
    return parts


def _mean(rows: Sequence[Row], field: str) -> float | None:
    values = [row[field] for row in rows]
    return None if None in values else float(np.mean(values))
