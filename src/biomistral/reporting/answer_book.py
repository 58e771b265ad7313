"""The answers of all models of a table side by side, read when a page first asks for them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from biomistral.reporting.answers import AnswerReader, Answers, Bytes
from biomistral.reporting.questionnaire import Labels, Numbers, Questionnaire
from biomistral.reporting.results import Run

Scope: TypeAlias = tuple[str, str]
"""A task and a language; the language may be empty: all of them."""


@dataclass(frozen=True)
class BoardAnswers:
    """``chosen`` and ``share`` are (models, questions), models in the order of the board; see `Answers`. ``questions`` are ids,
    with the right option of each (from 0) and how many it has; ``scopes`` says where those of a task and language stand."""

    models: Sequence[str]
    answers: Sequence[Answers]
    chosen: Bytes
    share: Bytes
    questions: Labels
    answer: Bytes
    options: Bytes
    ways: int
    scopes: dict[Scope, slice]

    def content(self, scope: Scope) -> str:
        """Hash of which questions these are and what is right."""
        parts = [(language, place) for (task, language), place in self.scopes.items()
                 if task == scope[0] and language and scope[1] in ("", language)]
        rows = [[language, *(column[place].tolist() for column in (self.questions, self.answer, self.options))]
                for language, place in parts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class AnswerBook:
    """All tables of a site, each read once."""

    def __init__(self, boards: Sequence[Sequence[Run]]) -> None:
        self._boards, self._read = boards, dict[int, BoardAnswers]()
        self.scopes = cache(self._scopes)

    def _scopes(self, number: int) -> dict[Scope, slice]:
        """Where the questions of each task and language of a table stand, without reading an answer."""
        return scopes_of(self._boards[number][0].questionnaire)

    def board(self, number: int) -> BoardAnswers:
        """The answers of one table; the runs of a board are aligned, question by question."""
        if number not in self._read:
            self._read[number] = read_board(self._boards[number])
        return self._read[number]


def read_board(board: Sequence[Run]) -> BoardAnswers:
    """The answers of these runs."""
    readers: dict[int, AnswerReader] = {}
    answers = []
    for run in board:  # rows of one model may stand in another order than another's, which is another questionnaire
        if id(run.questionnaire) not in readers:
            readers[id(run.questionnaire)] = AnswerReader(run.questionnaire)
        answers.append(readers[id(run.questionnaire)].read(run))
    first = readers[id(board[0].questionnaire)]
    return BoardAnswers([run.model.name for run in board], answers, np.stack([one.chosen for one in answers]),
                        np.stack([one.share for one in answers]), first.questions, first.answer, first.options, first.ways,
                        scopes_of(board[0].questionnaire))


def scopes_of(asked: Questionnaire) -> dict[Scope, slice]:
    """Where the questions of each task stand, and of each task in each language: they are sorted by these."""
    tasks, languages = asked.tasks, asked.languages
    found = {(tasks.names[tasks.numbers[place.start]], ""): place for place in _runs(tasks.numbers)}
    both = tasks.numbers * len(languages.names) + languages.numbers
    return {**found, **{(tasks.names[tasks.numbers[place.start]], languages.names[languages.numbers[place.start]]): place
                        for place in _runs(both)}}


def _runs(numbers: Numbers) -> list[slice]:
    """Runs of equal numbers."""
    ends = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [slice(start, stop) for start, stop in pairwise(ends)]
