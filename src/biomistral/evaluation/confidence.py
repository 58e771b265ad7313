"""How far a model's confidence can be trusted, from the rows of its answers."""

from collections.abc import Sequence
from typing import Any

from biomistral.calibration import adaptive_ece, brier, ece, paper_ece_5, reliability_bins
from biomistral.records import LETTERS
from biomistral.scoring.tally import Row, split_by


def calibration(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Calibration over all answers, with its reliability diagram, and of each task. Answers without probabilities do not count;
    None: there are no others."""
    rows = [row for row in rows if row["probabilities"] is not None]
    if not rows:
        return None
    confidence, right = [max(row["probabilities"]) for row in rows], [row["right"] for row in rows]
    return {**calibration_of(rows), "bins": reliability_bins(confidence, right),
            "tasks": {task: calibration_of(found) for task, found in split_by(rows, "task").items()}}


def calibration_of(rows: Sequence[Row]) -> dict[str, float | None]:
    """``paper_ece_5`` is over the last shot set of the published order alone, as the original's sets overwrote one another (None
    without letters)."""
    probabilities = [row["probabilities"] for row in rows]
    confidence, right = [max(own) for own in probabilities], [row["right"] for row in rows]
    last = [row for row in rows if row["shot_set"] == rows[-1]["shot_set"] and not row["permutation"]]
    paper = None
    if last and all(row["letter_mass"] is not None for row in rows):
        paper = paper_ece_5([row["probabilities"] for row in last], [row["letter_mass"] for row in last],
                            [row["right"] for row in last])
    return {"ece": ece(confidence, right), "adaptive_ece": adaptive_ece(confidence, right),
            "brier": brier(probabilities, [LETTERS.index(row["answer"]) for row in rows]), "paper_ece_5": paper}
