"""The site's charts: each a drawing, the sentence that describes it, and the table that says the same in text."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from biomistral.errors import UserError
from biomistral.reporting.results import Run
from biomistral.reporting.svg import Axis, Series, draw

_MOST_POINTS = 300
_MOST_MODELS = 30
"""So many rows the chart of accuracies takes; of more the first ones are drawn."""


@dataclass(frozen=True)
class Chart:
    """``svg`` is the drawing and ``legend`` its series; ``rows`` are the numbers as a table (first column: row headers)."""

    id: str
    title: str
    description: str
    svg: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: Sequence[Series] = ()


def percent(value: float | None, digits: int = 1) -> str:
    """``43.2 %`` of a fraction (with a space that does not break), a dash of nothing."""
    return "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def accuracy_chart(board: Sequence[Run], number: int) -> Chart:
    """Accuracy with its 95 % interval: one line a model, one mark for all questions and one for each group."""
    drawn, groups = board[:_MOST_MODELS], board[0].group_names
    scopes = ["all questions", *groups]
    step = 0.7 / len(scopes)
    series, rows = [], [[run.model.name] for run in drawn]
    for place, scope in enumerate(scopes):
        scores = [run.summary.groups[scope] if place else run.summary.overall for run in drawn]
        for row, score in zip(rows, scores, strict=True):
            row += [percent(score.accuracy), f"{100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f} %"]
        points = [(100 * score.accuracy, index + (place - (len(scopes) - 1) / 2) * step) for index, score in enumerate(scores)]
        series.append(Series(scope, points, place, line=False, radii=[4.5] * len(points),
                             titles=[f"{run.model.name}, {scope}: {x:.1f} %" for run, (x, _) in zip(drawn, points, strict=True)],
                             spans=[(100 * score.interval[0], 100 * score.interval[1]) for score in scores]))
    chance = 100 * board[0].chance
    guessing = Series(f"guessing, {chance:.0f} %", [(chance, -0.5), (chance, len(drawn) - 0.5)], -1, dashed=True)
    highest = max(high for one in series for _, high in one.spans)
    svg = draw([guessing, *series], Axis("accuracy, %", 0, min(100.0, 10 * math.ceil(max(highest, chance) / 10))),
               Axis("", -0.5, len(drawn) - 0.5, [run.model.name for run in drawn]), height=60 + 22 * len(scopes) * len(drawn))
    columns = ["Model", *(text for scope in scopes for text in (scope, f"{scope}, 95 % interval"))]
    which = f"{len(board)} models" if len(board) == len(drawn) else f"the first {len(drawn)} of {len(board)} models"
    described = (f"Accuracy of {which} under {board[0].protocol} with 95 % intervals; guessing would give {chance:.1f} %.")
    return Chart(f"accuracy-{number}", "Accuracy with 95 % intervals", described, svg, columns, rows, [*series, guessing])


def reliability_chart(board: Sequence[Run], number: int) -> Chart | None:
    """Reliability diagram: accuracy against confidence in bins."""
    perfect = Series("perfectly calibrated", [(0, 0), (100, 100)], -1, dashed=True)
    series, rows = [perfect], []
    for index, run in enumerate(board):
        bins = [part for part in run.summary.calibration.bins if part.count] if run.summary.calibration else []
        if not bins:
            continue
        most, named = max(part.count for part in bins), f"{run.model.name}: " if len(board) > 1 else ""
        points = [(100 * (part.confidence or 0), 100 * (part.accuracy or 0)) for part in bins]
        series.append(Series(run.model.name, points, index, radii=[2.5 + 5.5 * math.sqrt(part.count / most) for part in bins],
                             titles=[f"{named}confidence {x:.1f} %, right {y:.1f} %, {part.count:,} answers"
                                     for part, (x, y) in zip(bins, points, strict=True)]))
        rows += [[run.model.name, f"{100 * part.low:.0f} to {100 * part.high:.0f} %", f"{part.count:,}",
                  percent(part.confidence), percent(part.accuracy)] for part in bins]
    if not rows:
        return None
    described = ("How often answers given with a certain confidence are right. On the dashed line confidence can be taken at "
                 "its word; below it the model is too sure of itself. Larger marks stand for more answers.")
    return Chart(f"reliability-{number}", "Reliability of the confidence", described,
                 draw(series, Axis("confidence, %", 0, 100), Axis("right, %", 0, 100), height=380),
                 ["Model", "Confidence", "Answers", "Mean confidence", "Right"], rows, series)


def loss_chart(curves: Mapping[str, Path]) -> Chart:
    """Training loss (and held-out loss where it was measured) against the step, one colour a model.

    Raises:
        UserError: a folder has no ``metrics.jsonl``, or it is malformed.
    """
    series: list[Series] = []
    rows = []
    for index, (name, folder) in enumerate(curves.items()):
        losses, heldout = read_metrics(folder / "metrics.jsonl")
        for values, what in ((losses, "training"), (heldout, "held-out")):
            if not values:
                continue
            thin = _thinned(sorted(values.items()))
            series.append(Series(f"{name}, {what}", thin, index, dashed=what == "held-out",
                                 radii=[3] * len(thin) if what == "held-out" else (),
                                 titles=[f"{name}, {what}: {loss:.3f} at step {step:,.0f}" for step, loss in thin]))
            first, last = min(values), max(values)
            numbers = (values[first], values[last], min(values.values()))
            rows.append([name, what, f"{len(values):,}", *(f"{number:.3f}" for number in numbers)])
    described = (f"Loss per token during training. Curves of more than {_MOST_POINTS} steps are drawn as means of "
                 "neighbouring steps.")
    return Chart("loss", "Loss during training", described, _loss_drawing(series),
                 ["Model", "Loss", "Measurements", "First", "Last", "Lowest"], rows, series)


def _loss_drawing(series: Sequence[Series]) -> Markup:
    steps, losses = zip(*(point for one in series for point in one.points), strict=True)
    room = 0.05 * (max(losses) - min(losses)) or 0.05 * max(losses) or 1.0
    return draw(series, Axis("step", 0, max(*steps, 1)),
                Axis("loss, nats a token", max(0.0, min(losses) - room), max(losses) + room))


def read_metrics(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Training and held-out loss by step; a step written twice (a resumed run) counts as it was written last.

    Raises:
        UserError: no such file, a line is not an object with a step, or it holds no finite loss.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; 'curves' takes folders that pretrain or finetune wrote") from error
    series: dict[str, dict[int, float]] = {"loss": {}, "heldout_loss": {}}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            for name, values in series.items():
                if row.get(name) is not None and math.isfinite(row[name]):
                    values[int(row["step"])] = float(row[name])
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}:{number}: one JSON object with a step and numbers was expected; train again") from error
    if not series["loss"] and not series["heldout_loss"]:
        raise UserError(f"{path}: holds no finite loss; leave this folder out of 'curves'")
    return series["loss"], series["heldout_loss"]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points: means over equal runs of neighbours."""
    width = math.ceil(len(points) / _MOST_POINTS)
    parts = [points[start:start + width] for start in range(0, len(points), width)]
    return [(sum(step for step, _ in part) / len(part), sum(loss for _, loss in part) / len(part)) for part in parts]
