"""A page for each model: all its scores, how far its confidence can be trusted, its habits, and how it was made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from biomistral.reporting import making
from biomistral.reporting.charts import reliability_chart
from biomistral.reporting.lineage_graph import lineage_graph
from biomistral.reporting.page import DataFile, Page
from biomistral.reporting.results import Results, Run
from biomistral.reporting.results_file import Score
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import lineage_view

_CARD = "README.md"


@dataclass(frozen=True)
class Standing:
    """A model's run, and the table it stands in: its number on the site and what the table says of it."""

    number: int
    run: Run
    view: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The model's row of the table."""
        found: dict[str, Any] = next(row for row in self.view["rows"] if row["model"] == self.run.model.name)
        return found


def pages(site: SiteData) -> Iterator[Page | DataFile]:
    """``models/NAME.html``; and ``models/NAME.card.md`` where the model's folder holds a card."""
    for name in site.models:
        card = _card(site.of_model(name))
        path = site.model_path(name)
        if card is not None:
            yield DataFile(_card_path(path), partial(str, card))
        yield Page(path, name, "model.html.j2", partial(_data, site, name, card is not None))


def _card_path(path: str) -> str:
    return path.removesuffix(".html") + ".card.md"


def _card(results: Sequence[Results]) -> str | None:
    """The card in the model's folder, if that still lies where it was."""
    node = making.model_node(results[0])
    folder = node and making.folder_of(node)
    return (folder / _CARD).read_text(encoding="utf-8", errors="replace") if folder and (folder / _CARD).is_file() else None


def _data(site: SiteData, name: str, has_card: bool) -> dict[str, Any]:
    results = site.of_model(name)
    found = standings(site, name)
    node = making.model_node(results[0])
    return {"name": name, "info": results[0].model, "about": found[0].row["about"], "standings": found,
            "card": _card_path(site.model_path(name)) if has_card else None,
            "scores": [_table(site, those) for those in _by_benchmark(found)],
            "languages": [language_map(site, one) for one in found if len(one.run.summary.languages) > 1],
            "calibrations": [_calibration(one) for one in found if one.run.summary.calibration],
            "habits": [_habits(one) for one in found],
            "stages": list(making.stages(node)) if node is not None else [],
            "graph": lineage_graph([result.lineage for result in results]),
            "lineage": [lineage_view(result) for result in results]}


def standings(site: SiteData, name: str) -> list[Standing]:
    """A model's rows in the tables of the site, in their order."""
    return [Standing(number, run, view) for number, (board, view) in enumerate(zip(site.boards, site.views, strict=True))
            for run in board if run.model.name == name]


def _by_benchmark(found: Sequence[Standing]) -> list[list[Standing]]:
    """Tables about the same questions, whose columns are protocols."""
    groups: dict[tuple[Any, ...], list[Standing]] = {}
    for one in found:
        groups.setdefault(one.run.board[:4], []).append(one)
    return list(groups.values())


def _table(site: SiteData, found: Sequence[Standing]) -> dict[str, Any]:
    """Scores of one benchmark: a row a task, a column a protocol."""
    summaries = [one.run.summary for one in found]
    tasks = dict.fromkeys(task for summary in summaries for task in summary.tasks)
    groups = dict.fromkeys(group for one in found for group in one.run.group_names)
    benchmark = found[0].run.benchmark
    scores = [("task", task, site.task_path(benchmark.name, task), [summary.tasks.get(task) for summary in summaries])
              for task in tasks]
    scores += [("group", group, "", [summary.groups.get(group) for summary in summaries]) for group in groups]
    scores.append(("all", "all questions", "", [summary.overall for summary in summaries]))
    rows = [{"kind": kind, "name": name, "path": path, "cells": list(map(_cell, found, row))} for kind, name, path, row in scores]
    return {"benchmark": benchmark, "standings": found, "rows": rows, "several_tasks": len(tasks) > 1,
            "averages": [summary.average for summary in summaries]}


def _cell(one: Standing, score: Score | None) -> dict[str, Any] | None:
    return None if score is None else {"score": score, "heat": heat(score.accuracy, one.run.chance)}


def heat(accuracy: float, chance: float) -> int:
    """How strongly a cell of a heat map is tinted, in percent: 0 of guessing (or worse) to 44 of all right, on which text can
    still be read."""
    share = (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
    return round(44 * max(0.0, share))


def language_map(site: SiteData, one: Standing) -> dict[str, Any]:
    """Tasks by languages, with the gap to English on the same questions where there is one."""
    languages = one.run.summary.languages
    tasks = dict.fromkeys(task for scores in languages.values() for task in scores.tasks)
    benchmark, here = one.run.benchmark.name, one.run.questionnaire.languages.names
    several = len(here) > 1  # languages asked apart have pages under benchmarks of their own

    def cell(language: str, task: str) -> dict[str, Any] | None:
        scores = languages[language]
        found = _cell(one, scores.tasks.get(task) if task else scores.overall)
        gap = (scores.gap.tasks.get(task) if task else scores.gap.overall) if scores.gap else None
        return found and {**found, "gap": gap if gap and gap.n else None}

    rows = [{"name": task, "path": site.task_path(benchmark, task), "cells": [cell(language, task) for language in languages]}
            for task in tasks]
    rows.append({"name": "all questions", "path": "", "cells": [cell(language, "") for language in languages]})
    parts = [site.task_path(benchmark, "", name).partition(".html")[2] if several and name in here else "" for name in languages]
    return {"standing": one, "columns": list(zip(languages, parts, strict=True)), "rows": rows}


def _calibration(one: Standing) -> dict[str, Any]:
    calibration = one.run.summary.calibration
    assert calibration is not None
    return {"standing": one, "calibration": calibration,
            "chart": reliability_chart([one.run], one.number)}


def _habits(one: Standing) -> dict[str, Any]:
    """Letter mass, and how often each place of an option is chosen and is right."""
    summary = one.run.summary
    return {"standing": one, "mass": summary.overall.letter_mass, "open": summary.overall.open_accuracy,
            "positions": summary.positions, "shot_sets": summary.shot_sets, "permutations": summary.permutations,
            "unparsed": summary.unparsed, "warnings": one.row["warnings"]}
