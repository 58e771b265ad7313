"""Every model in every language: a heat map of accuracies with the gap to English on the same questions, and one of the tasks."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from biomistral.reporting.language_table import fertility_words
from biomistral.reporting.page import Page
from biomistral.reporting.pages.models import Standing, heat, language_map
from biomistral.reporting.results import Run
from biomistral.reporting.site_data import SiteData

PATH = "languages.html"


def pages(site: SiteData) -> Iterator[Page]:
    """``languages.html``, if questions in several languages were asked."""
    numbers = [number for number, board in enumerate(site.boards) if len(board[0].summary.languages) > 1]
    if numbers:
        yield Page(PATH, "Languages", "languages.html.j2", partial(_data, site, numbers), nav="Languages")


def _data(site: SiteData, numbers: Sequence[int]) -> dict[str, Any]:
    return {"boards": [_board(site, number) for number in numbers]}


def _board(site: SiteData, number: int) -> dict[str, Any]:
    board = site.boards[number]
    languages = list(board[0].summary.languages)
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
    return {"score": scores.overall, "heat": heat(scores.overall.accuracy, run.chance), "gap": gap,
            "ece": scores.calibration.ece if scores.calibration else None,
            "tokens": fertility_words(cost.model_dump()) if cost else "", "premium": cost.premium if cost else None}
