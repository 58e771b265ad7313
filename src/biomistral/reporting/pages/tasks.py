"""A page for each task, and for each of its languages: what was asked, to the letter, how hard it is, how alike models answer."""

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
    """A task of a benchmark in one language, or in all that were asked (``""``), and the numbers of the boards that have it."""

    benchmark: str
    name: str
    language: str
    languages: Sequence[str]
    boards: Sequence[int]

    @property
    def title(self) -> str:
        return f"{self.name} ({self.language})" if self.language else self.name

    @property
    def sample_language(self) -> str:
        """The language whose prompt and questions are shown."""
        return self.language or ("en" if "en" in self.languages else self.languages[0])


def pages(site: SiteData) -> Iterator[Page]:
    """``tasks/index.html`` and ``tasks/BENCHMARK--TASK[--LANGUAGE].html``; the latter where several languages were asked."""
    tasks = tasks_of(site)
    yield Page(INDEX, "Tasks", "tasks.html.j2", partial(_index, site, tasks), nav="Tasks")
    for task in tasks:
        for language in ("", *(task.languages if len(task.languages) > 1 else ())):
            one = Task(task.benchmark, task.name, language, task.languages, _with_language(site, task, language))
            yield Page(site.task_path(task.benchmark, task.name, language), one.title, "task.html.j2", partial(_data, site, one))


def tasks_of(site: SiteData) -> list[Task]:
    """All tasks of the site, by benchmark, each in all its languages."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, board in enumerate(site.boards):
        for task in board[0].summary.tasks:
            found.setdefault((board[0].benchmark.name, task), []).append(number)
    return [Task(benchmark, name, "", _languages(site, name, numbers), numbers) for (benchmark, name), numbers in found.items()]


def _languages(site: SiteData, task: str, numbers: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(language for number in numbers for name, language in site.book.scopes(number)
                              if name == task and language))


def _with_language(site: SiteData, task: Task, language: str) -> list[int]:
    """The boards on which the task was asked in a language."""
    return [number for number in task.boards
            if not language or (task.name, language) in site.book.scopes(number)]


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
    book = site.book.board(task.boards[0])
    scope = (task.name, task.language)
    return {"task": task, "n": book.scopes[scope].stop - book.scopes[scope].start, "content": book.content(scope),
            "benchmark": first.benchmark, "about": _about(asked, task),
            "languages": [{"name": language, "path": site.task_path(task.benchmark, task.name, language)}
                          for language in task.languages] if len(task.languages) > 1 else [],
            "index": INDEX, "all_path": site.task_path(task.benchmark, task.name), "asked": asked is not None,
            "examples": _examples(book, task, asked) if asked else [],
            "boards": [_board(site, number, task, asked) for number in task.boards]}


def _board(site: SiteData, number: int, task: Task, asked: Asked | None) -> dict[str, Any]:
    """What one protocol says of a task."""
    board, book = site.boards[number], site.book.board(number)
    place = book.scopes[task.name, task.language]
    row = site.library.recorded(board[0].folder, board[0].protocol).get((task.name, task.sample_language))
    hardness = difficulty(book.share[:, place])
    return {"number": number, "run": board[0], "view": site.views[number], "difficulty": hardness,
            "most": max(hardness.counts), "models": _models(site, board, book, task),
            "prompt": prompt(asked, board[0].protocol, task.name, task.sample_language, row) if asked and row else None}


def score_of(run: Run, task: Task) -> Score | None:
    """A model's score in a task, in all its languages or one."""
    if not task.language:
        return run.summary.tasks.get(task.name)
    scores = run.summary.languages.get(task.language)
    return scores.tasks.get(task.name) if scores else None


def _models(site: SiteData, board: Sequence[Run], book: BoardAnswers, task: Task) -> list[dict[str, Any]]:
    """The models, best in this task first; each with how alike it answers to the others, and to which most."""
    place = book.scopes[task.name, task.language]
    same, kappa = agreement(book.chosen[:, place])
    np.fill_diagonal(same, np.nan)
    rows: list[dict[str, Any]] = []
    for index, run in enumerate(board):
        row: dict[str, Any] = {"name": run.model.name, "path": site.model_path(run.model.name), "score": score_of(run, task),
                               "right": float(book.share[index, place].mean() / STEPS), "nearest": None}
        if len(board) > 1:
            nearest = int(np.nanargmax(same[index]))
            row |= {"mean": float(np.nanmean(same[index])), "nearest": board[nearest].model.name,
                    "same": float(same[index, nearest]), "kappa": _number(kappa[index, nearest])}
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["right"], row["name"]))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _examples(book: BoardAnswers, task: Task, asked: Asked) -> list[dict[str, Any]]:
    """Questions that most models have right, that some have, and that fewest have, with how many models chose which option."""
    place = book.scopes[task.name, task.sample_language]
    found = []
    for offset in examples(book.share[:, place], _EXAMPLES):
        index = place.start + offset
        question = asked.questions.get((task.sample_language, str(book.questions[index])))
        if question is not None:
            chosen = book.chosen[:, index]
            found.append({"question": question, "right": float(book.share[:, index].mean() / STEPS),
                          "unread": int((chosen == NONE).sum()),
                          "options": [{"letter": letter, "text": option, "count": int((chosen == number).sum()),
                                       "right": letter == question.answer}
                                      for number, (letter, option) in enumerate(zip(LETTERS, question.options, strict=False))]})
    return found
