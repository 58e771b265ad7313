"""What an engine gives back, whether it computes here or asks a server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomistral.artifact import Workspace
from biomistral.records import Question
from biomistral.scoring.tally import Row


@dataclass(frozen=True)
class Answered:
    """``facts`` of the model, a row an answer, the questions left out (protocol, shot set, id, language), and ``notes`` to a
    reader of the scores; ``asked`` is what it took, for the manifest."""

    facts: dict[str, Any]
    rows: list[Row]
    left_out: list[tuple[str, int, str, str]]
    notes: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)


Engine = Callable[[Workspace, Sequence[Question]], Answered]
"""Answers to what the settings of a workspace ask of a benchmark's questions; it keeps in ``parts`` what it can go on from.
Under torchrun every process calls it, and those that only help do not come back (`ranks.Dismissed`)."""
