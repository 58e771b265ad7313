"""Heat maps of task by language: accuracy as colour, the gap to English beside it, and the same as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from biomistral.reporting import language_table
from biomistral.reporting.charts import Chart
from biomistral.reporting.results import Run
from biomistral.reporting.svg import shortened

_ALL = "all questions"
_LEFT, _TOP, _WIDE, _HIGH = 170, 24, 64, 40
_STRONGEST = 55
"""Percent of the colour at accuracy 1: text on it keeps its contrast in both themes."""


def language_charts(board: Sequence[Run], number: int) -> list[Chart]:
    """One heat map for each model that was asked in several languages; its table says calibration and cost too."""
    return [_chart(run, f"languages-{number}-{place}") for place, run in enumerate(board) if len(run.summary.languages) > 1]


def _chart(run: Run, name: str) -> Chart:
    summary = run.summary.model_dump()
    data = {"model": {"name": run.model.name}, "protocols": {run.protocol: summary},
            "fertility": run.fertility.model_dump() if run.fertility else None}
    head, *rows = language_table.rows(run.protocol, data)
    described = (f"Accuracy of {run.model.name} in each language, in %; below it the gap to English in points, paired on the "
                 "same questions.")
    return Chart(name, f"Languages, {run.model.name}", described, _drawing(summary["languages"]), ["Task", *head[1:]], rows)


def _drawing(languages: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Rows are tasks, the last one all questions; a task that a language lacks stays empty."""
    tasks = [*dict.fromkeys(task for scores in languages.values() for task in scores["tasks"]), _ALL]
    parts = [_text(_LEFT + (column + 0.5) * _WIDE, 16, language, "middle") for column, language in enumerate(languages)]
    for row, task in enumerate(tasks):
        parts.append(_text(_LEFT - 8, _TOP + row * _HIGH + 25, shortened(task), "end"))
        for column, own in enumerate(languages.values()):
            score = own["overall"] if task == _ALL else own["tasks"].get(task)
            gap = language_table.gap_of(own, "" if task == _ALL else task)
            parts += _cell(_LEFT + column * _WIDE, _TOP + row * _HIGH, score, gap) if score else []
    return (Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">').format(
        _LEFT + _WIDE * len(languages) + 4, _TOP + _HIGH * len(tasks) + 4) + Markup("").join(parts) + Markup("</svg>"))


def _cell(left: int, top: int, score: Mapping[str, Any], gap: Mapping[str, Any] | None) -> list[Markup]:
    """``38.5`` and on a second line ``−4.5``."""
    box = Markup('<rect class="heat" x="{}" y="{}" width="{}" height="{}" style="--heat:{:.0f}%"/>').format(
        left + 1, top + 1, _WIDE - 2, _HIGH - 2, _STRONGEST * score["accuracy"])
    middle = left + _WIDE / 2
    if gap is None:
        return [box, _text(middle, top + 25, f"{100 * score['accuracy']:.1f}", "middle")]
    points = f"{100 * gap['difference']:+.1f}".replace("-", "\N{MINUS SIGN}")
    return [box, _text(middle, top + 18, f"{100 * score['accuracy']:.1f}", "middle"), _text(middle, top + 33, points, "middle")]


def _text(across: float, down: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(across, down, anchor, words)
