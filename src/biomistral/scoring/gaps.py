"""The gap between a language and English over the same questions: paired, tested, corrected for the number of languages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomistral.seeds import seed
from biomistral.statistics import differences, holm, mcnemar, paired_difference

ENGLISH = "en"


@dataclass(frozen=True)
class Asked:
    """A question's mean score over shot sets and permutations."""

    score: float
    cluster: str


Scores = Mapping[tuple[str, str], Asked]
"""By task and id, which translations share."""


def gaps(languages: Mapping[str, Scores], english: Scores, protocol: str) -> dict[str, dict[str, Any]]:
    """Of each language the gap over all questions and of each task, ``p_holm`` corrected for the number of languages compared
    over the same task (or over all questions)."""
    return _corrected({language: _gaps(own, english, protocol, language) for language, own in languages.items()})


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


def _corrected(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """With ``p_holm`` over the languages."""
    tasks = dict.fromkeys(task for gap in found.values() for task in gap["tasks"])
    for family in ([gap["overall"] for gap in found.values()],
                   *([gap["tasks"][task] for gap in found.values() if task in gap["tasks"]] for task in tasks)):
        tested = [one for one in family if one["p"] is not None]
        for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
            one["p_holm"] = p
    return found
