"""The first page: one table for each protocol and set of questions, whose rows may be compared."""

from collections.abc import Iterator
from typing import Any

from biomistral.reporting.charts import Chart, accuracy_chart, loss_chart, reliability_chart
from biomistral.reporting.heatmap import language_charts
from biomistral.reporting.page import Page
from biomistral.reporting.record import record
from biomistral.reporting.site_data import SiteData


def pages(site: SiteData) -> Iterator[Page]:
    """``index.html``."""
    yield Page("index.html", site.settings.title, "leaderboard.html.j2", lambda: _data(site), nav="Leaderboard")


def _data(site: SiteData) -> dict[str, Any]:
    return {**record(site), "charts": [_charts(site, number) for number in range(len(site.boards))],
            "loss": loss_chart(site.curves) if site.curves else None}


def _charts(site: SiteData, number: int) -> list[Chart]:
    board, view = site.boards[number], site.views[number]
    shown = {view["leader"], view["baseline"] or view["rows"][0]["model"]}
    calibrated = [run for run in board if run.model.name in shown]
    found = [accuracy_chart(board, number), reliability_chart(calibrated, number), *language_charts(board, number)]
    return [chart for chart in found if chart is not None]
