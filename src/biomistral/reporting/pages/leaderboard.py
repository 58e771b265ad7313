"""The first page: for each protocol and set of questions a table whose rows may be compared, and one more for each language."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from biomistral.languages import language_words
from biomistral.reporting.charts import Chart, accuracy_chart, percent, reliability_chart
from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import published, versions_note
from biomistral.reporting.words import decimals, p_words, points

_Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """``key`` names a column in addresses, the same on every site; ``path`` is its page."""

    key: str
    title: str
    note: str = ""
    path: str = ""


@dataclass(frozen=True)
class Cell:
    """A number, and smaller under it its interval and what else there is to say; tones are ``up``, ``down``, ``same`` or none.
    ``heat``: accuracy as colour."""

    text: str
    note: str = ""
    more: str = ""
    tone: str = ""
    more_tone: str = ""
    best: bool = False
    heat: int | None = None
    score: dict[str, Any] | None = None
    """Of the column of all questions: drawn as an interval, too."""


@dataclass(frozen=True)
class Slice:
    """One table: all questions of a board, or those in one language. ``rows`` are the board's rows, their ranks and cells."""

    id: str
    language: str
    questions: int
    columns: Sequence[Column]
    rows: Sequence[tuple[_Row, int, Sequence[Cell]]]
    best: str | None


def pages(site: SiteData) -> Iterator[Page]:
    """``index.html``."""
    yield Page("index.html", site.settings.title, "leaderboard.html.j2", lambda: _data(site), nav="Leaderboard")


def _data(site: SiteData) -> dict[str, Any]:
    return {"notes": site.settings.notes, "versions": versions_note(site.results), "boards": site.views,
            "several_benchmarks": site.several_benchmarks,
            "labels": _labels(site), "baseline": site.baseline, "imported": site.imported, "published": published(),
            "slices": [[_whole(site, number), *_by_language(site, number)] for number in range(len(site.boards))],
            "charts": [_charts(site, number) for number in range(len(site.boards))]}


def _labels(site: SiteData) -> list[str]:
    """What tells the boards apart in few words: the protocol, and as much more as it takes."""
    labels = [str(view["protocol"]) for view in site.views]
    more = ([f" · {view['benchmark']['name']}" for view in site.views],
            [f", {view['questions']:,} questions" for view in site.views],
            [f", definition {view['definition_hash'][:6]}" for view in site.views],
            [f", asked {view['questions_hash'][:6]}" for view in site.views])
    for words in more:
        if len(set(labels)) < len(labels):
            labels = [label + word for label, word in zip(labels, words, strict=True)]
    return labels if len(set(labels)) == len(labels) else [f"{label}, table {number}" for number, label in enumerate(labels, 1)]


def _charts(site: SiteData, number: int) -> list[Chart]:
    board, view = site.boards[number], site.views[number]
    shown = {view["leader"], view["baseline"] or view["rows"][0]["model"]}
    found = [accuracy_chart(board, number), reliability_chart([run for run in board if run.model.name in shown], number)]
    return [chart for chart in found if chart is not None]


def _whole(site: SiteData, number: int) -> Slice:
    """All questions of a board."""
    view = site.views[number]
    first, name = view["rows"][0], view["benchmark"]["name"]
    columns = [Column("all", "All questions", f"n = {view['questions']:,}")]
    columns += [Column("difference", "Difference", f"to {view['baseline']}")] if view["baseline"] else []
    columns += [Column(f"group:{one}", one.capitalize(), f"n = {first['groups'][one]['n']:,}") for one in view["groups"]]
    columns += [Column(f"language:{one}", language_words(one), f"n = {first['languages'][one]['overall']['n']:,}")
                for one in view["languages"]]
    columns += [Column(f"task:{one}", one, f"n = {first['tasks'][one]['n']:,}", site.task_path(name, one))
                for one in view["tasks"]]
    columns += [Column("mean", "Mean", f"of {len(view['tasks'])} tasks")] if view["tasks"] else []
    columns += [column for column, _ in _habits(view, first)]
    rows = [(row, row["rank"], _whole_cells(view, row)) for row in view["rows"]]
    return Slice(f"slice-{number}", "", view["questions"], columns, rows, view["best"]["overall"])


def _whole_cells(view: dict[str, Any], row: _Row) -> list[Cell]:
    model, best = row["model"], view["best"]
    cells = [_scored(row["overall"], best["overall"] == model, drawn=True)]
    cells += [_difference(row["difference"])] if view["baseline"] else []
    cells += [_scored(row["groups"][one], best["groups"][one] == model, row["group_differences"][one]) for one in view["groups"]]
    cells += [_scored(row["languages"][one]["overall"], best["languages"][one] == model, warm=True) for one in view["languages"]]
    cells += [_scored(row["tasks"][one], best["tasks"][one] == model) for one in view["tasks"]]
    cells += [Cell(_share(row["average"]))] if view["tasks"] else []
    return cells + [cell for _, cell in _habits(view, row)]


def _habits(view: dict[str, Any], row: _Row) -> list[tuple[Column, Cell]]:
    """What is no accuracy: how well the prompt was followed, what the order of options changes, calibration."""
    found = []
    if view["has_letter_mass"]:
        found.append((Column("mass", "Letter mass", "mean"), Cell(percent(row["overall"]["letter_mass"]))))
    if view["permutations"] > 1:
        changed = row["permutations"]["changed"] if row["permutations"] else None
        found.append((Column("changed", "Answers changed", "by the order of options"), Cell(percent(changed))))
    if view["has_calibration"]:
        sure = row["calibration"] or {"ece": None, "brier": None}
        found += [(Column("ece", "ECE", "points"), Cell(decimals(sure["ece"], 1))),
                  (Column("brier", "Brier", "0 is best"), Cell(decimals(sure["brier"], 3)))]
    return found


def _by_language(site: SiteData, number: int) -> list[Slice]:
    return [_of_language(site, number, language) for language in site.views[number]["languages"]]


def _of_language(site: SiteData, number: int, language: str) -> Slice:
    """The questions in one language, ranked among themselves."""
    view = site.views[number]
    first, name = view["rows"][0]["languages"][language], view["benchmark"]["name"]
    gap = any(row["languages"][language]["gap"] for row in view["rows"])
    tasks = list(first["tasks"])
    columns = [Column("all", "All questions", f"n = {first['overall']['n']:,}"),
               *([Column("gap", "Gap to English", "paired, points")] if gap else []),
               *(Column(f"task:{one}", one, f"n = {first['tasks'][one]['n']:,}", site.task_path(name, one, language))
                 for one in tasks), Column("mean", "Mean", f"of {len(tasks)} tasks"), Column("ece", "ECE", "points")]
    rows = [(row, row["ranks"][language], _language_cells(view, row, language, gap))
            for row in sorted(view["rows"], key=lambda row: (-row["languages"][language]["overall"]["accuracy"], row["model"]))]
    return Slice(f"slice-{number}-{view['languages'].index(language)}", language, first["overall"]["n"], columns, rows,
                 view["best"]["languages"][language])


def _language_cells(view: dict[str, Any], row: _Row, language: str, gap: bool) -> list[Cell]:
    own, best = row["languages"][language], view["best"]
    cells = [_scored(own["overall"], best["languages"][language] == row["model"], drawn=True)]
    cells += [_gap(own["gap"])] if gap else []
    cells += [_scored(score, best["cells"][language][task] == row["model"]) for task, score in own["tasks"].items()]
    sure = own["calibration"] or {"ece": None}
    return [*cells, Cell(_share(own["average"])), Cell(decimals(sure["ece"], 1))]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _scored(score: dict[str, Any], best: bool, difference: dict[str, Any] | None = None, drawn: bool = False,
            warm: bool = False) -> Cell:
    low, high = score["interval"]
    beside, tone = ("", "") if difference is None else (
        f"{points(difference['difference'])} [{points(difference['low'])}, {points(difference['high'])}]"
        f"{_arrow(difference['direction'])}", _tone(difference["direction"], difference["significant"]))
    return Cell(_share(score["accuracy"]), f"{_share(low)}–{_share(high)}", beside, more_tone=tone, best=best,
                heat=round(40 * score["accuracy"]) if warm else None, score=score if drawn else None)


def _difference(found: dict[str, Any] | None) -> Cell:
    if found is None:
        return Cell("–")
    return Cell(f"{points(found['difference'])}{_arrow(found['direction'])}",
                f"[{points(found['low'])}, {points(found['high'])}]", p_words(found["p_holm"]),
                _tone(found["direction"], found["significant"]))


def _gap(found: dict[str, Any] | None) -> Cell:
    if not found or not found["overall"]["n"]:
        return Cell("–")
    gap = found["overall"]
    direction = int(gap["low"] > 0) - int(gap["high"] < 0)
    return Cell(f"{points(gap['difference'])}{_arrow(direction)}", f"[{points(gap['low'])}, {points(gap['high'])}]",
                p_words(gap["p_holm"]), _tone(direction, gap["p_holm"] < 0.05))


def _arrow(direction: int) -> str:
    return ["", " ▲", " ▼"][direction]


def _tone(direction: int, significant: bool) -> str:
    return ["same", "up", "down"][direction] if significant else "same"
