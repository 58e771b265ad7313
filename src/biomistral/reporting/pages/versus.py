"""Two models side by side: paired differences of all pairs of the best with all that is known of them, of all pairs in short, and
of any two, task by task, in the reader's browser.

The browser has each model's share of right answers for each question, packed into bits, and computes McNemar's exact test as
`statistics.mcnemar` does. Its intervals are normal ones from the spread of the differences (the error of
`statistics.detectable_difference`), as are those of all pairs in short; those of the best the bootstrap's: it is said where they
stand.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from biomistral.languages import language_words
from biomistral.reporting.compare import paired
from biomistral.reporting.packed import bits_for, packed, script, squeezed
from biomistral.reporting.page import DataFile, Page
from biomistral.reporting.pairwise import SIGNIFICANT, differences_of_all, pairs
from biomistral.reporting.results import Run
from biomistral.reporting.site_data import SiteData
from biomistral.statistics import holm, mcnemar

PATH = "compare.html"
_MOST = 8
"""Models of which every pair has a row: 28 rows. Of more models every pair has a cell."""
_MOST_IN_CELLS = 100
"""So many models have rows and columns of cells: 10,000 cells, 0.3 MB."""


def pages(site: SiteData) -> Iterator[Page | DataFile]:
    """``compare.html``, and ``data/right-*.js`` unless the settings want no answers to single questions; nothing where no two
    models may be compared."""
    numbers = [number for number, board in enumerate(site.boards) if len(board) > 1]
    if not numbers:
        return
    yield Page(PATH, "Compare", "compare.html.j2", partial(_data, site, numbers), nav="Compare")
    for number in numbers if site.settings.questions else ():
        yield DataFile(_path(number), partial(_right, site, number))


def _path(number: int) -> str:
    return f"data/right-{number}.js"


def _data(site: SiteData, numbers: Sequence[int]) -> dict[str, Any]:
    return {"tables": [_table(site, number) for number in numbers], "by_script": bool(site.settings.questions),
            "index": [{"number": number, "protocol": site.boards[number][0].protocol,
                       "benchmark": site.boards[number][0].benchmark.name, "file": _path(number),
                       "models": [run.model.name for run in site.boards[number]],
                       "languages": {name: language_words(name) for name in site.boards[number][0].questionnaire.languages.names}}
                      for number in numbers]}


def _table(site: SiteData, number: int) -> dict[str, Any]:
    """Every pair of the best models over all questions; p is corrected for all pairs of the board, those not shown too."""
    board = site.boards[number]
    gained = pairs(board).gained
    every = [(one, other) for one in range(len(board)) for other in range(one + 1, len(board))]
    corrected = dict(zip(every, holm([mcnemar(int(gained[pair]), int(gained[pair[::-1]])) for pair in every]), strict=True))
    rows = [{"first": board[one].model.name, "second": board[other].model.name, "p_holm": corrected[one, other],
             "difference": paired(board[one], board[other], root=site.settings.seed)}
            for one, other in every if max(one, other) < _MOST]
    return {"number": number, "run": board[0], "view": site.views[number], "rows": rows, "pairs": len(every),
            "models": min(len(board), _MOST), "of": len(board), "most": _MOST_IN_CELLS,
            "cells": _cells(board, corrected) if len(board) > _MOST else []}


def _cells(board: Sequence[Run], corrected: dict[tuple[int, int], float]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Each of the first models, and how it differs from each of them: None from itself."""
    differences, halves = differences_of_all(board)
    places = range(min(len(board), _MOST_IN_CELLS))

    def cell(one: int, other: int) -> dict[str, Any] | None:
        if one == other:
            return None
        found, half = float(differences[one, other]), float(halves[one, other])
        direction = int(found - half > 0) - int(found + half < 0)
        told = corrected[min(one, other), max(one, other)] < SIGNIFICANT
        return {"difference": found, "half": half, "direction": direction, "tone": ["", "up", "down"][direction] if told else ""}

    return [(board[one].model.name, [cell(one, other) for other in places]) for one in places]


def _right(site: SiteData, number: int) -> str:
    """Each model's right answers to each question, from 0 to ``ways``; tasks, languages and groups; what asks the same."""
    board, first = site.boards[number], site.boards[number][0]
    ways = first.shot_sets * first.permutations
    bits = bits_for(ways) if ways < 256 else 8
    levels = min(ways, 255)
    models = [squeezed(np.rint(run.scores * levels).astype(np.uint8), bits) for run in board]
    return script(_path(number), {"models": models, "bits": bits, "ways": levels, "n": len(first.scores), **_parts(first)})


def _parts(run: Run) -> dict[str, Any]:
    asked = run.questionnaire
    parts = {name: {"names": list(part.names), "numbers": packed(part.numbers.astype(np.uint16))}
             for name, part in (("task", asked.tasks), ("language", asked.languages), ("group", asked.groups))
             if len(part.names) > 1}
    alone = len(asked.clusters.names) == len(run.scores)
    return {"parts": parts, "clusters": None if alone else packed(asked.clusters.numbers.astype(np.uint32))}
