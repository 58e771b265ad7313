"""The answers of all models of a table side by side, read when a page first asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from biomistral.recipe import canonical_hash
from biomistral.reporting.answers import AnswerReader, Answers, Bytes, spans
from biomistral.reporting.results import Labels, Run

Scope: TypeAlias = tuple[str, str]
"""A task and a language; the language may be empty: all of them."""


@dataclass(frozen=True)
class BoardAnswers:
    """``chosen`` and ``share`` are (models, questions), models in the order of the board; see `Answers`."""

    models: Sequence[str]
    answers: Sequence[Answers]
    chosen: Bytes
    share: Bytes
    scopes: dict[Scope, slice]
    languages: Labels

    @property
    def questions(self) -> Labels:
        return self.answers[0].questions

    def content(self, scope: Scope) -> str:
        """Hash of which questions these are and what is right."""
        place, first = self.scopes[scope], self.answers[0]
        return canonical_hash([self.languages[place].tolist(), self.questions[place].tolist(), first.answer[place].tolist(),
                               first.options[place].tolist()])


class AnswerBook:
    """All tables of a site, each read once."""

    def __init__(self, boards: Sequence[Sequence[Run]]) -> None:
        self._boards, self._read = boards, dict[int, BoardAnswers]()

    def board(self, number: int) -> BoardAnswers:
        """The answers of one table; the runs of a board are aligned, question by question."""
        if number not in self._read:
            self._read[number] = read_board(self._boards[number])
        return self._read[number]


def read_board(board: Sequence[Run]) -> BoardAnswers:
    """The answers of these runs."""
    reader, first = AnswerReader(), board[0]
    answers = [reader.read(run.folder, run.protocol) for run in board]
    scopes: dict[Scope, slice] = {}
    for (task,), place in spans(first.tasks):
        scopes[task, ""] = place
    for (task, language), place in spans(first.tasks, first.languages):
        scopes[task, language] = place
    return BoardAnswers([run.model.name for run in board], answers, np.stack([one.chosen for one in answers]),
                        np.stack([one.share for one in answers]), scopes, first.languages)
