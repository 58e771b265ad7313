"""What the language of the questions changes: scores by language, and the gap to English on the same questions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from biomistral.evaluation.confidence import calibration_of
from biomistral.scoring.gaps import ENGLISH, Asked, Scores, gaps
from biomistral.scoring.tally import Row, score, split_by


def by_language(rows: Sequence[Row]) -> dict[str, Any]:
    """Of each language asked: SCOREs by task and overall, the tasks' unweighted average, calibration, and the ``gap`` to English
    (None: it is English, or English was not asked). English stands first, the others in their order.

    ``p_holm`` of a gap is corrected for the number of languages compared over the same task (or over all questions).
    """
    parts = split_by(rows, "language")
    found = {language: _of_language(own) for language, own in sorted(parts.items(), key=lambda pair: pair[0] != ENGLISH)}
    if ENGLISH in parts:
        english = _scores(parts[ENGLISH])
        others = {language: _scores(own) for language, own in parts.items() if language != ENGLISH}
        for language, gap in gaps(others, english, rows[0]["protocol"]).items():
            found[language]["gap"] = gap
    return found


def _of_language(rows: Sequence[Row]) -> dict[str, Any]:
    tasks = {task: score(own) for task, own in split_by(rows, "task").items()}
    sure = [row for row in rows if row["probabilities"] is not None]
    return {"tasks": tasks, "overall": score(rows), "average": float(np.mean([one["accuracy"] for one in tasks.values()])),
            "calibration": calibration_of(sure) if sure else None, "gap": None}


def _scores(rows: Sequence[Row]) -> Scores:
    right: dict[tuple[str, str], list[bool]] = {}
    clusters: dict[tuple[str, str], str] = {}
    for row in rows:
        name = row["task"], row["question"]
        right.setdefault(name, []).append(row["right"])
        clusters[name] = row.get("cluster") or row["question"]
    return {name: Asked(float(np.mean(answers)), clusters[name]) for name, answers in right.items()}
