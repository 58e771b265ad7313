"""Every model in every language: a heat map of accuracies with the gap to English on the same questions, and one of the tasks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from biomistral.reporting.apart import joined
from biomistral.reporting.page import Page
from biomistral.reporting.pages.models import Standing, heat, language_map
from biomistral.reporting.results import Run
from biomistral.reporting.site_data import SiteData

PATH = "languages.html"


def pages(site: SiteData) -> Iterator[Page]:
    """``languages.html``, if a table's first model was asked in several languages, together or apart."""
    everything = [run for board in site.boards for run in board]
    boards = {number: [joined(run, everything) for run in board] for number, board in enumerate(site.boards)}
    several = {number: board for number, board in boards.items() if len(board[0].summary.languages) > 1}
    if several:
        yield Page(PATH, "Languages", "languages.html.j2", partial(_data, site, several), nav="Languages")


def _data(site: SiteData, boards: Mapping[int, Sequence[Run]]) -> dict[str, Any]:
    return {"boards": [_board(site, number, board) for number, board in boards.items()]}


def _board(site: SiteData, number: int, board: Sequence[Run]) -> dict[str, Any]:
    languages = list(dict.fromkeys(name for run in board for name in run.summary.languages))
    rows = [{"name": run.model.name, "path": site.model_path(run.model.name), "cells": [_cell(run, name) for name in languages]}
            for run in board]
    return {"number": number, "view": site.views[number], "run": board[0], "languages": languages, "rows": rows,
            "best": language_map(site, Standing(number, board[0], site.views[number])), "best_name": board[0].model.name}


def _cell(run: Run, language: str) -> dict[str, Any] | None:
    """Accuracy in one language, the gap to English, calibration error and what the language costs in tokens."""
    scores = run.summary.languages.get(language)
    if scores is None:
        return None
    gap = scores.gap.overall if scores.gap and scores.gap.overall.n else None
    cost = run.fertility.languages.get(language) if run.fertility else None
    found = (("ECE", scores.calibration and scores.calibration.ece, 1), ("tokens", cost and cost.premium, 2))
    return {"score": scores.overall, "heat": heat(scores.overall.accuracy, run.chance), "gap": gap,
            "notes": [f"{name} {value:.{digits}f}" for name, value, digits in found if value is not None]}
