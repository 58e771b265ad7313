"""The page's charts as Plotly figures (plain data), each with the table that says the same in text.

Colours are CSS variables (``var(--series-1)``): the page resolves them, so that a chart follows its light or dark theme.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.results import Run

_SERIES = 8
_MOST_POINTS = 600
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")


@dataclass(frozen=True)
class Chart:
    """A figure, the sentence that describes it, and its numbers as a table (first column: row headers)."""

    id: str
    title: str
    description: str
    figure: dict[str, Any]
    columns: list[str]
    rows: list[list[str]]


def _colour(index: int) -> str:
    return f"var(--series-{index % _SERIES + 1})"


def escaped(value: str) -> str:
    """Plotly reads some HTML in its labels: a name is text."""
    return html.escape(value, quote=False)


def percent(value: float | None, digits: int = 1) -> str:
    """``43.2 %`` of a fraction (with a space that does not break), a dash of nothing."""
    return "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def accuracy_chart(board: Sequence[Run], number: int) -> Chart:
    """Accuracy with its 95 % interval: one line a model, one mark for all questions and one for each group."""
    groups = board[0].group_names
    scopes = ["all questions", *groups]
    step = 0.7 / len(scopes)
    traces, rows = [], [[run.model.name] for run in board]
    for place, scope in enumerate(scopes):
        scores = [run.summary.groups[scope] if place else run.summary.overall for run in board]
        for row, score in zip(rows, scores, strict=True):
            row += [percent(score.accuracy), f"{100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f} %"]
        traces.append({
            "type": "scatter", "mode": "markers", "name": escaped(scope), "x": [100 * score.accuracy for score in scores],
            "y": [index + (place - (len(scopes) - 1) / 2) * step for index in range(len(board))],
            "error_x": {"type": "data", "symmetric": False, "thickness": 1.6, "width": 4, "color": _colour(place),
                        "array": [100 * (score.interval[1] - score.accuracy) for score in scores],
                        "arrayminus": [100 * (score.accuracy - score.interval[0]) for score in scores]},
            "marker": {"size": 9, "symbol": _SYMBOLS[place % len(_SYMBOLS)], "color": _colour(place)},
            "customdata": [escaped(run.model.name) for run in board], "hovertemplate": "%{customdata}: %{x:.1f} %"})
    chance = 100 * board[0].chance
    traces.append({"type": "scatter", "mode": "lines", "name": f"guessing, {chance:.0f} %", "hoverinfo": "skip",
                   "x": [chance, chance], "y": [-0.5, len(board) - 0.5],
                   "line": {"dash": "dot", "width": 1.5, "color": "var(--muted)"}})
    layout = {
        "height": 150 + 22 * len(scopes) * len(board),
        "xaxis": {"title": {"text": "accuracy, %"}, "rangemode": "tozero"},
        "yaxis": {"tickvals": list(range(len(board))), "ticktext": [escaped(run.model.name) for run in board],
                  "range": [len(board) - 0.5, -0.5], "automargin": True, "showgrid": False}}
    columns = ["Model", *(text for scope in scopes for text in (scope, f"{scope}, 95 % interval"))]
    described = (f"Accuracy of {len(board)} models under {board[0].protocol} with 95 % intervals; guessing would give "
                 f"{chance:.1f} %.")
    figure = {"data": traces, "layout": layout}
    return Chart(f"accuracy-{number}", "Accuracy with 95 % intervals", described, figure, columns, rows)


def reliability_chart(board: Sequence[Run], number: int, shown: set[str]) -> Chart | None:
    """Reliability diagram: accuracy against confidence in bins; only the models in ``shown`` are on from the start."""
    traces: list[dict[str, Any]] = [{"type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "hoverinfo": "skip",
                                     "name": "perfectly calibrated", "line": {"dash": "dot", "color": "var(--muted)"}}]
    rows = []
    for index, run in enumerate(board):
        bins = [part for part in run.summary.calibration.bins if part.count] if run.summary.calibration else []
        if not bins:
            continue
        most = max(part.count for part in bins)
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": escaped(run.model.name),
            "visible": True if run.model.name in shown else "legendonly", "line": {"color": _colour(index), "width": 2},
            "x": [100 * (part.confidence or 0) for part in bins], "y": [100 * (part.accuracy or 0) for part in bins],
            "customdata": [part.count for part in bins],
            "marker": {"color": _colour(index), "size": [5 + 11 * math.sqrt(part.count / most) for part in bins]},
            "hovertemplate": "confidence %{x:.1f} %, right %{y:.1f} %, %{customdata} answers"})
        rows += [[run.model.name, f"{100 * part.low:.0f} to {100 * part.high:.0f} %", f"{part.count:,}",
                  percent(part.confidence), percent(part.accuracy)] for part in bins]
    if not rows:
        return None
    layout = {"height": 460, "xaxis": {"title": {"text": "confidence, %"}, "range": [0, 100]},
              "yaxis": {"title": {"text": "right, %"}, "range": [0, 100]}}
    described = ("How often answers given with a certain confidence are right. On the dotted line confidence can be taken at "
                 "its word; below it the model is too sure of itself. Larger marks stand for more answers.")
    return Chart(f"reliability-{number}", "Reliability of the confidence", described, {"data": traces, "layout": layout},
                 ["Model", "Confidence", "Answers", "Mean confidence", "Right"], rows)


def loss_chart(curves: Mapping[str, Path]) -> Chart:
    """Training loss (and held-out loss where it was measured) against the step, one colour a model.

    Raises:
        UserError: a folder has no ``metrics.jsonl``, or it is malformed.
    """
    traces, rows = [], []
    for index, (name, folder) in enumerate(curves.items()):
        losses, heldout = read_metrics(folder / "metrics.jsonl")
        for values, what, style in ((losses, "training", {"width": 1.5}), (heldout, "held-out", {"dash": "dash", "width": 2})):
            if not values:
                continue
            thin = _thinned(sorted(values.items()))
            traces.append({"type": "scatter", "mode": "lines+markers" if what == "held-out" else "lines",
                           "name": escaped(f"{name}, {what}"), "x": [step for step, _ in thin], "y": [loss for _, loss in thin],
                           "line": {**style, "color": _colour(index)}, "marker": {"size": 7, "color": _colour(index)}})
            first, last = min(values), max(values)
            numbers = (values[first], values[last], min(values.values()))
            rows.append([name, what, f"{len(values):,}", *(f"{number:.3f}" for number in numbers)])
    layout = {"height": 400, "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
              "yaxis": {"title": {"text": "loss, nats per token"}}}
    described = (f"Loss per token during training. Curves of more than {_MOST_POINTS} steps are drawn as means of "
                 "neighbouring steps.")
    return Chart("loss", "Loss during training", described, {"data": traces, "layout": layout},
                 ["Model", "Loss", "Measurements", "First", "Last", "Lowest"], rows)


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
