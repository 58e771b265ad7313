"""What every page draws on, read and checked once: results, the tables they fall into, and where a thing has its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace, input_key, is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.recipe import nearest
from biomistral.reporting.answer_book import AnswerBook
from biomistral.reporting.asked import Library
from biomistral.reporting.compare import boards
from biomistral.reporting.imported import KIND, read_imported, tables
from biomistral.reporting.overlap import overlaps
from biomistral.reporting.page import slug
from biomistral.reporting.results import Results, Run, read_all
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.view import board_view


@dataclass(frozen=True)
class SiteData:
    """``boards[k]`` are runs that may be compared, best first, and ``views[k]`` what their table says (`view.board_view`), its
    rows in the same order. The boards of the first protocol come first."""

    settings: ReportSettings
    results: Sequence[Results]
    boards: Sequence[Sequence[Run]]
    views: Sequence[dict[str, Any]]
    baseline: str
    """Name of the model that differences refer to."""
    curves: Mapping[str, Path]
    """Model folders with ``metrics.jsonl``, under the name of the evaluated model that each is, else its kind and key."""
    imported: Sequence[dict[str, Any]]
    contamination: Sequence[dict[str, Any]]

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the folders."""
        return list(dict.fromkeys(result.model.name for result in self.results))

    @property
    def several_benchmarks(self) -> bool:
        return len({board[0].board[:4] for board in self.boards}) > 1

    @cached_property
    def book(self) -> AnswerBook:
        """Every answer, of one table at a time, read when a page first asks."""
        return AnswerBook(self.boards)

    @cached_property
    def library(self) -> Library:
        """The questions that were asked, if their benchmarks still lie where they were."""
        return Library()

    def of_model(self, name: str) -> list[Results]:
        """The results folders of one model."""
        return [result for result in self.results if result.model.name == name]

    @staticmethod
    def model_path(name: str) -> str:
        """Where a model's page lies, relative to the site."""
        return f"models/{slug(name)}.html"

    @staticmethod
    def task_path(benchmark: str, task: str, language: str = "") -> str:
        """Where a task has its page, and on it its part in one language, relative to the site."""
        return f"tasks/{slug(benchmark)}--{slug(task)}.html" + (f"#in-{slug(language)}" if language else "")


def read_site(work: Workspace) -> SiteData:
    """Read what a site is about.

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
    found = _boards(results, protocol)
    return SiteData(settings, results, found, [board_view(board, baseline, settings.seed) for board in found], baseline,
                    _curves(work, results, settings.curves), tables(list(map(read_imported, imported))),
                    overlaps(list(map(work.locate, settings.contamination)), results))


def _known(setting: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"{setting} {name!r} is in none of the results{nearest(name, dict.fromkeys(names))}")


def _boards(results: Sequence[Results], protocol: str) -> list[list[Run]]:
    """Those of ``protocol`` first; in each the runs best first."""
    found = boards([run for result in results for run in result.runs.values()])
    return [sorted(board, key=lambda run: (-run.summary.overall.accuracy, run.model.name))
            for board in sorted(found, key=lambda board: board[0].protocol != protocol)]


def _curves(work: Workspace, results: Sequence[Results], names: Sequence[str]) -> dict[str, Path]:
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
