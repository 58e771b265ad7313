"""Write the leaderboard page: one HTML file, its numbers as JSON, and the chart library beside it. No network, ever."""

import json
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from biomistral import __version__
from biomistral.artifact import Workspace, input_key, is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.recipe import nearest
from biomistral.reporting.charts import Chart, accuracy_chart, loss_chart, percent, reliability_chart
from biomistral.reporting.compare import boards
from biomistral.reporting.heatmap import language_charts
from biomistral.reporting.imported import KIND, read_imported, tables
from biomistral.reporting.overlap import overlaps
from biomistral.reporting.results import Results, read_all
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.view import page_view


def build_site(work: Workspace) -> None:
    """Make ``index.html``, ``results.json`` and ``assets/`` from results folders, measured here or imported.

    Raises:
        UserError: none was measured here, a results folder is not sound, a name is taken twice, the baseline or protocol is in
            none of them, a curve's folder has no metrics, or an account of contamination is not about these results.
    """
    settings: ReportSettings = work.settings
    places = [work.locate(name) for name in dict.fromkeys(settings.results)]
    imported = [place for place in places if is_artifact(place) and open_artifact(place).kind == KIND]
    results = read_all(place for place in places if place not in imported)
    if not results:
        raise UserError(f"{imported[0]}: imported results stand beside measured ones; name a folder that 'evaluate' wrote too")
    baseline = settings.baseline or results[0].model.name
    protocol = settings.protocol or next(iter(results[0].runs))
    _known("baseline", baseline, [result.model.name for result in results])
    _known("protocol", protocol, [name for result in results for name in result.runs])
    view = page_view(results, baseline, protocol, settings.seed)
    view = {"title": settings.title, "notes": settings.notes, **view, "imported": tables(list(map(read_imported, imported))),
            "contamination": overlaps(list(map(work.locate, settings.contamination)), results)}
    charts = _charts(results, view["boards"], protocol)
    curves = _curves(work, results, settings.curves)
    _write_assets(work.path / "assets")
    write_text(work.path / "index.html", render(view, charts, loss_chart(curves) if curves else None))
    write_json(work.path / "results.json", view)
    work.counts |= {"models": len(results), "tables": len(view["boards"]),
                    "rows": sum(len(board["rows"]) for board in view["boards"])}
    work.facts |= {"baseline": baseline, "findings": [finding_words(board) for board in view["boards"] if board["finding"]]}


def _known(setting: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"{setting} {name!r} is in none of the results{nearest(name, dict.fromkeys(names))}")


def _charts(results: Sequence[Results], views: Sequence[dict[str, Any]], protocol: str) -> list[list[Chart]]:
    """The charts of every board, in the order of the boards on the page."""
    everything = [run for result in results for run in result.runs.values()]
    tables = boards(everything)
    charts = []
    for number, board in enumerate(sorted(tables, key=lambda board: board[0].protocol != protocol)):
        view = views[number]
        order = [row["model"] for row in view["rows"]]
        runs = sorted(board, key=lambda run: order.index(run.model.name))
        found = [accuracy_chart(runs, number), reliability_chart(runs, number, {view["leader"], view["baseline"] or order[0]})]
        charts.append([chart for chart in [*found, *language_charts(runs, number, everything)] if chart is not None])
    return charts


def _curves(work: Workspace, results: Sequence[Results], names: Sequence[str]) -> dict[str, Path]:
    """Each curve's folder under the name of the evaluated model that it is, else its kind and key."""
    evaluated: dict[str, str] = {}
    for result in results:
        evaluated.setdefault(result.model.key, result.model.name)
    curves: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        folder = work.locate(name)
        key = input_key(folder)
        kind = open_artifact(folder).kind if is_artifact(folder) else "model"
        curves[evaluated.get(key, f"{kind} {key[:8]}")] = folder
    return curves


def _write_assets(folder: Path) -> None:
    """The page's script and Plotly's offline bundle, as files beside the page: it opens from disk and stays small."""
    from plotly.offline import get_plotlyjs

    folder.mkdir(exist_ok=True)
    write_text(folder / "plotly.min.js", get_plotlyjs())
    with resources.as_file(resources.files("biomistral.reporting").joinpath("templates/page.js")) as script:
        shutil.copyfile(script, folder / "page.js")


def points(value: float) -> str:
    """``+2.1``, ``−0.3`` of a difference of fractions: points, with a true minus sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_words(p: float) -> str:
    """``p = 0.03``, ``p < 0.001``."""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def decimals(value: float | None, digits: int) -> str:
    """A number with so many digits, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def finding_words(board: dict[str, Any]) -> str:
    """A board's finding as one plain sentence."""
    found = board["finding"]
    main = found["main"]
    scope = "" if found["scope"] == "overall" else f"{found['scope']} "
    text = (f"{found['model']} answers {percent(main['accuracy'])} of the {main['n']:,} {scope}questions ({board['protocol']}), "
            f"{found['baseline']} {percent(main['baseline_accuracy'])}: {points(main['difference'])} points "
            f"[{points(main['low'])}, {points(main['high'])}], {p_words(main['p_holm'])}")
    return text.replace("\N{NO-BREAK SPACE}", " ")


def render(view: dict[str, Any], charts: Sequence[Sequence[Chart]], loss: Chart | None) -> str:
    """The page as HTML; every value is escaped, figures are JSON in which no tag can end."""
    environment = Environment(loader=PackageLoader("biomistral.reporting"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "p_words": p_words, "decimals": decimals,
                            "json": lambda value: json.dumps(value, ensure_ascii=False)}
    style = resources.files("biomistral.reporting").joinpath("templates/style.css").read_text(encoding="utf-8")
    return environment.get_template("index.html.j2").render(view, charts=charts, loss=loss, style=Markup(style),
                                                             version=__version__)
