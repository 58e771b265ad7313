"""Heat maps of task by language: accuracy as colour, the gap to English beside it, and the same as a table."""

from collections.abc import Sequence
from typing import Any

from biomistral.reporting import language_table
from biomistral.reporting.apart import beside, languages_of
from biomistral.reporting.charts import Chart, escaped
from biomistral.reporting.results import Run

_ALL = "all questions"


def language_charts(board: Sequence[Run], number: int, everything: Sequence[Run] = ()) -> list[Chart]:
    """One heat map for each model that was asked in several languages, together or apart (in ``everything``); its table says
    calibration and cost too."""
    languages = [languages_of(run, everything) for run in board]
    return [_chart(run, found, beside(run, everything), f"languages-{number}-{place}")
            for place, (run, found) in enumerate(zip(board, languages, strict=True)) if len(found) > 1]


def _chart(run: Run, languages: dict[str, Any], others: Sequence[Run], name: str) -> Chart:
    costs = {language: cost for one in (run, *others) if one.fertility
             for language, cost in one.fertility.model_dump()["languages"].items()}
    data = {"model": {"name": run.model.name}, "protocols": {run.protocol: {"languages": languages}},
            "fertility": {"languages": costs}}
    head, *rows = language_table.rows(run.protocol, data)
    described = (f"Accuracy of {run.model.name} in each language, in %; below it the gap to English in points, paired on the "
                 "same questions.")
    figure = _figure(languages)
    return Chart(name, f"Languages, {run.model.name}", described, figure, ["Task", *head[1:]], rows)


def _figure(languages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows are tasks, the last one all questions; a task that a language lacks stays empty."""
    tasks = [*dict.fromkeys(task for scores in languages.values() for task in scores["tasks"]), _ALL]
    scores = [[own["overall"] if task == _ALL else own["tasks"].get(task) for own in languages.values()] for task in tasks]
    gaps = [[language_table.gap_of(own, "" if task == _ALL else task) for own in languages.values()] for task in tasks]
    trace = {"type": "heatmap", "x": list(languages), "y": [escaped(task) for task in tasks], "xgap": 2, "ygap": 2,
             "z": [[one and 100 * one["accuracy"] for one in row] for row in scores],
             "text": [[_words(one, gap) for one, gap in zip(*pair, strict=True)] for pair in zip(scores, gaps, strict=True)],
             "texttemplate": "%{text}", "hovertemplate": "%{y}, %{x}: %{z:.1f} %<extra></extra>",
             "colorscale": [[0, "var(--surface)"], [1, "var(--series-1)"]], "colorbar": {"title": {"text": "%"}}}
    layout = {"height": 140 + 52 * len(tasks), "margin": {"l": 170, "r": 20, "t": 20, "b": 50},
              "xaxis": {"type": "category", "showgrid": False},
              "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True}}
    return {"data": [trace], "layout": layout}


def _words(score: Any, gap: Any) -> str:
    """``38.5`` and on a second line ``−4.5``."""
    if score is None:
        return ""
    text = f"{100 * score['accuracy']:.1f}"
    return text if gap is None else f"{text}<br>{100 * gap['difference']:+.1f}".replace("-", "\N{MINUS SIGN}")
