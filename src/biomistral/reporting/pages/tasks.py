"""A page for each task, with a part for each language: what was asked, to the letter, how hard it is, how alike models answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from biomistral.records import LETTERS
from biomistral.reporting.agreement import agreement, difficulty, examples
from biomistral.reporting.answer_book import BoardAnswers
from biomistral.reporting.answers import NONE, STEPS
from biomistral.reporting.asked import Asked, prompt
from biomistral.reporting.page import Page
from biomistral.reporting.results import Run
from biomistral.reporting.results_file import Score
from biomistral.reporting.site_data import SiteData

INDEX = "tasks/index.html"
_EXAMPLES = 3


@dataclass(frozen=True)
class Task:
    """A task of a benchmark, the languages it was asked in, and the numbers of the boards that have it."""

    benchmark: str
    name: str
    languages: Sequence[str]
    boards: Sequence[int]

    @property
    def parts(self) -> list[str]:
        """The languages that its page has a part about, first all of them together (``""``)."""
        return ["", *self.languages] if len(self.languages) > 1 else [""]

    def sample_language(self, part: str) -> str:
        """The language whose prompt and questions a part shows."""
        return part or ("en" if "en" in self.languages else self.languages[0])


def pages(site: SiteData) -> Iterator[Page]:
    """``tasks/index.html`` and ``tasks/BENCHMARK--TASK.html``, with a part for each language where several were asked."""
    tasks = tasks_of(site)
    yield Page(INDEX, "Tasks", "tasks.html.j2", partial(_index, site, tasks), nav="Tasks")
    for task in tasks:
        yield Page(site.task_path(task.benchmark, task.name), task.name, "task.html.j2", partial(_data, site, task))


def tasks_of(site: SiteData) -> list[Task]:
    """All tasks of the site, by benchmark, each in all its languages."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, board in enumerate(site.boards):
        for task in board[0].summary.tasks:
            found.setdefault((board[0].benchmark.name, task), []).append(number)
    return [Task(benchmark, name, _languages(site, name, numbers), numbers) for (benchmark, name), numbers in found.items()]


def _languages(site: SiteData, task: str, numbers: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(language for number in numbers for name, language in site.book.scopes(number)
                              if name == task and language))


def _index(site: SiteData, tasks: Sequence[Task]) -> dict[str, Any]:
    rows = []
    for task in tasks:
        run = site.boards[task.boards[0]][0]
        asked = site.library.asked(next(result for result in site.results if result.artifact.path == run.folder))
        rows.append({"task": task, "n": run.summary.tasks[task.name].n, "licence": _about(asked, task)["licence"],
                     "path": site.task_path(task.benchmark, task.name),
                     "protocols": [site.boards[number][0].protocol for number in task.boards]})
    return {"rows": rows, "several": len({task.benchmark for task in tasks}) > 1}


def _about(asked: Asked | None, task: Task) -> dict[str, str]:
    """Licence and source of a task, as far as its benchmark states them."""
    stated = asked.tasks.get(task.name, {}) if asked else {}
    return {name: stated[name] if isinstance(stated.get(name), str) else "" for name in ("licence", "source")}


def _data(site: SiteData, task: Task) -> dict[str, Any]:
    first = site.boards[task.boards[0]][0]
    asked = site.library.asked(next(result for result in site.results if result.artifact.path == first.folder))
    parts: dict[str, dict[str, Any]] = {}
    for number in task.boards:  # outside: the answers of one board are held at a time
        book = site.book.board(number)
        for part in task.parts:
            if (task.name, part) not in book.scopes:
                continue
            if part not in parts:
                parts[part] = _part(site, task, part, book, asked)
            parts[part]["boards"].append(_board(site, number, task, part, asked))
    return {"task": task, "benchmark": first.benchmark, "about": _about(asked, task), "asked": asked is not None,
            "parts": [parts[part] for part in task.parts], "runs": {number: site.boards[number][0] for number in task.boards}}


def _part(site: SiteData, task: Task, part: str, book: BoardAnswers, asked: Asked | None) -> dict[str, Any]:
    """What the task is in one language, or in all; ``boards`` are still to come."""
    place = book.scopes[task.name, part]
    path = site.task_path(task.benchmark, task.name, part)
    return {"id": path.partition("#")[2] or "all", "language": part, "sample": task.sample_language(part),
            "n": place.stop - place.start, "content": book.content((task.name, part)),
            "examples": _examples(book, task, part, asked) if asked else [],
            "boards": []}


def _board(site: SiteData, number: int, task: Task, part: str, asked: Asked | None) -> dict[str, Any]:
    """What one protocol says of a task."""
    board, book, sample = site.boards[number], site.book.board(number), task.sample_language(part)
    row = site.library.recorded(board[0].folder, board[0].protocol).get((task.name, sample))
    hardness = difficulty(book.share[:, book.scopes[task.name, part]])
    return {"number": number, "run": board[0], "view": site.views[number], "difficulty": hardness,
            "most": max(hardness.counts), "models": _models(site, board, book, (task.name, part)),
            "prompt": prompt(asked, board[0].protocol, task.name, sample, row) if asked and row else None}


def score_of(run: Run, task: str, language: str) -> Score | None:
    """A model's score in a task, in all its languages or one."""
    if not language:
        return run.summary.tasks.get(task)
    scores = run.summary.languages.get(language)
    return scores.tasks.get(task) if scores else None


def _models(site: SiteData, board: Sequence[Run], book: BoardAnswers, scope: tuple[str, str]) -> list[dict[str, Any]]:
    """The models, best in this task first; each with how alike it answers to the others, and to which most."""
    place = book.scopes[scope]
    same, kappa = agreement(book.chosen[:, place])
    np.fill_diagonal(same, np.nan)
    rows: list[dict[str, Any]] = []
    for index, run in enumerate(board):
        row: dict[str, Any] = {"name": run.model.name, "path": site.model_path(run.model.name), "score": score_of(run, *scope),
                               "right": float(book.share[index, place].mean() / STEPS), "nearest": None}
        if len(board) > 1:
            nearest = int(np.nanargmax(same[index]))
            row |= {"mean": float(np.nanmean(same[index])), "nearest": board[nearest].model.name,
                    "same": float(same[index, nearest]), "kappa": _number(kappa[index, nearest])}
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["right"], row["name"]))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _examples(book: BoardAnswers, task: Task, part: str, asked: Asked) -> list[dict[str, Any]]:
    """Questions that most models have right, that some have, and that fewest have, with how many models chose which option."""
    language = task.sample_language(part)
    place = book.scopes[task.name, language]
    found = []
    for offset in examples(book.share[:, place], _EXAMPLES):
        index = place.start + offset
        question = asked.questions.get((language, str(book.questions[index])))
        if question is not None:
            chosen = book.chosen[:, index]
            found.append({"question": question, "right": float(book.share[:, index].mean() / STEPS),
                          "unread": int((chosen == NONE).sum()),
                          "options": [{"letter": letter, "text": option, "count": int((chosen == number).sum()),
                                       "right": letter == question.answer}
                                      for number, (letter, option) in enumerate(zip(LETTERS, question.options, strict=False))]})
    return found
