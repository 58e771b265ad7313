"""The question explorer: every model's probabilities for each question, loaded task by task as the reader asks for them."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from biomistral.languages import language_words
from biomistral.records import LETTERS
from biomistral.reporting.answer_book import BoardAnswers, Scope
from biomistral.reporting.answers import STEPS, Answers, Ints
from biomistral.reporting.asked import Asked
from biomistral.reporting.packed import packed, script
from biomistral.reporting.page import DataFile, Page
from biomistral.reporting.site_data import SiteData
from biomistral.seeds import seed

PATH = "questions.html"


def pages(site: SiteData) -> Iterator[Page | DataFile]:
    """``questions.html`` and, for each table, task and language, ``data/answers-*.js`` and ``data/text-*.js``; nothing where the
    settings want no questions."""
    if not site.settings.questions:
        return
    boards = [_Board(site, number) for number in range(len(site.boards))]
    yield Page(PATH, "Questions", "explorer.html.j2", partial(_data, boards), nav="Questions")
    for board in boards:
        for place, scope in enumerate(board.scopes):
            yield DataFile(_path("answers", board.number, place), partial(_answers, board, place, scope))
            if board.number == board.twin:
                yield DataFile(_path("text", board.number, place), partial(_texts, board, place, scope))


def _path(what: str, board: int, place: int) -> str:
    return f"data/{what}-{board}-{place}.js"


class _Board:
    """A table of the site and which of its questions are held. ``twin``: the first table about the same questions, which has
    their text."""

    def __init__(self, site: SiteData, number: int) -> None:
        self.site, self.number, self.run = site, number, site.boards[number][0]
        self.twin = next(other for other, board in enumerate(site.boards) if self._alike(board[0]))
        self.held = cache(self._held)

    def _alike(self, other: Any) -> bool:
        return (other.questions, other.benchmark.key) == (self.run.questions, self.run.benchmark.key)

    @property
    def book(self) -> BoardAnswers:
        return self.site.book.board(self.number)

    @property
    def scopes(self) -> list[Scope]:
        """Tasks, each in each of its languages, in the order in which the results name them."""
        summary, scopes = self.run.summary, self.site.book.scopes(self.number)
        orders = (list(summary.tasks), list(summary.languages) or sorted({language for _, language in scopes}))
        return sorted((scope for scope in scopes if scope[1]),
                      key=lambda scope: [order.index(name) for name, order in zip(scope, orders, strict=True)])

    def asked(self) -> Asked | None:
        results = next(one for one in self.site.results if one.artifact.path == self.run.folder)
        return self.site.library.asked(results)

    def _held(self, scope: Scope) -> Ints:
        """Places of the questions that the explorer holds: all, or as many as the settings allow, drawn by the seed."""
        places: Ints = np.arange(self.book.scopes[scope].start, self.book.scopes[scope].stop)
        most = self.site.settings.questions
        if len(places) <= most:
            return places
        lots = [seed(self.site.settings.seed, "explorer", *scope, str(self.book.questions[place])) for place in places]
        return np.sort(places[np.argsort(lots, kind="stable")[:most]])


def _data(boards: Sequence[_Board]) -> dict[str, Any]:
    return {"index": [{
        "protocol": board.run.protocol, "benchmark": board.run.benchmark.name, "models": list(board.book.models),
        "scopes": [{"task": task, "language": language, "words": language_words(language), "n": len(board.held((task, language))),
                    "of": board.book.scopes[task, language].stop - board.book.scopes[task, language].start,
                    "answers": _path("answers", board.number, place), "text": _path("text", board.twin, place)}
                   for place, (task, language) in enumerate(board.scopes)]} for board in boards],
        "steps": STEPS}


def _answers(board: _Board, place: int, scope: Scope) -> str:
    """Of each model: letters chosen, shares right and probabilities (`answers.STEPS`), and words where it gave such."""
    held = board.held(scope)
    models = [_model(answers, held) for answers in board.book.answers]
    return script(_path("answers", board.number, place), {"models": models, "ways": board.book.ways})


def _model(answers: Answers, held: Ints) -> dict[str, Any]:
    probabilities = answers.probabilities[held]
    return {"chosen": packed(answers.chosen[held]), "share": packed(answers.share[held]), "options": probabilities.shape[1],
            "probabilities": packed(probabilities), "said": None if answers.said is None else answers.said[held].tolist()}


def _texts(board: _Board, place: int, scope: Scope) -> str:
    """Ids, right answers and, where the benchmark is still there, the words of each question."""
    book, asked = board.book, board.asked()
    rows = []
    for index in board.held(scope).tolist():
        name = str(book.questions[index])
        row = {"id": name, "answer": int(book.answer[index]), "options": list(LETTERS[: int(book.options[index])])}
        if asked is not None and (question := asked.questions.get((scope[1], name))) is not None:
            row |= {"stem": question.stem, "options": list(question.options), "context": question.context}
        rows.append(row)
    return script(_path("text", board.number, place), rows)
