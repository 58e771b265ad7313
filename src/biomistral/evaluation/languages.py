"""What the language of the questions changes: scores by language, and the gap to English on the same questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomistral.evaluation.confidence import calibration_of
from biomistral.scoring.tally import Row, score, split_by
from biomistral.seeds import seed
from biomistral.statistics import differences, holm, mcnemar, paired_difference

ENGLISH = "en"


@dataclass(frozen=True)
class _Asked:
    """A question's mean score over shot sets and permutations."""

    score: float
    cluster: str


Scores = Mapping[tuple[str, str], _Asked]
"""By task and id, which translations share."""


def by_language(rows: Sequence[Row]) -> dict[str, Any]:
    """Of each language asked: SCOREs by task and overall, the tasks' unweighted average, calibration, and the ``gap`` to English
    (None: it is English, or English was not asked). English stands first, the others in their order.

    ``p_holm`` of a gap is corrected for the number of languages compared over the same task (or over all questions).
    """
    parts = split_by(rows, "language")
    found = {language: _of_language(own) for language, own in sorted(parts.items(), key=lambda pair: pair[0] != ENGLISH)}
    if ENGLISH in parts:
        english = _scores(parts[ENGLISH])
        gaps = {language: _gaps(_scores(own), english, rows[0]["protocol"], language)
                for language, own in parts.items() if language != ENGLISH}
        for language, gap in _corrected(gaps).items():
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
    return {name: _Asked(float(np.mean(answers)), clusters[name]) for name, answers in right.items()}


def _gaps(own: Scores, english: Scores, *names: str) -> dict[str, Any]:
    """The gap over all questions, and of each task."""
    tasks = dict.fromkeys(task for task, _ in own)
    return {"overall": _gap(own, english, *names, ""),
            "tasks": {task: _gap({name: one for name, one in own.items() if name[0] == task}, english, *names, task)
                      for task in tasks}}


def _gap(own: Scores, english: Scores, *names: str) -> dict[str, Any]:
    """One GAP: accuracy minus that of the same ``n`` questions in English, with a paired bootstrap interval; questions gained
    and lost, and the exact McNemar (of several shot sets: sign) test of these. ``without_twin`` questions have no English one
    that was answered, and count in nothing here."""
    twins = [name for name in own if name in english]
    about = {"n": len(twins), "without_twin": len(own) - len(twins)}
    if not twins:
        return {**about, **dict.fromkeys(("accuracy", "english", "difference", "low", "high", "gained", "lost", "p", "p_holm"))}
    mine, theirs = ([scores[name].score for name in twins] for scores in (own, english))
    clusters = np.array([english[name].cluster for name in twins], dtype=object)
    difference, low, high = paired_difference(mine, theirs, seed(0, "languages", *names), clusters=clusters)
    sums, _ = differences(mine, theirs, clusters)
    gained, lost = int((sums > 0).sum()), int((sums < 0).sum())
    return {**about, "accuracy": float(np.mean(mine)), "english": float(np.mean(theirs)), "difference": difference, "low": low,
            "high": high, "gained": gained, "lost": lost, "p": mcnemar(gained, lost), "p_holm": None}


def _corrected(gaps: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """With ``p_holm`` over the languages."""
    tasks = dict.fromkeys(task for gap in gaps.values() for task in gap["tasks"])
    for family in ([gap["overall"] for gap in gaps.values()],
                   *([gap["tasks"][task] for gap in gaps.values() if task in gap["tasks"]] for task in tasks)):
        tested = [one for one in family if one["p"] is not None]
        for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
            one["p_holm"] = p
    return gaps
