"""The weights of the step that validated best, kept beside the checkpoints until the training's end."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from biomistral.errors import UserError
from biomistral.training.keeping.checkpoint import Checkpoints
from biomistral.training.parallel import Group
from biomistral.training.watching.validation import best_step
from biomistral.training.weights.masters import Weights

_ALL = 1 << 30


class Best:
    """Masters of the best steps so far, in ``best/`` inside the checkpoints' folder. All processes call each method together.

    A step is judged by the first process's log, which a resumed run cuts back to its checkpoint. So for every checkpoint that
    the run may go on from the best step before it is kept, and no later one can take its place for good.
    """

    def __init__(self, folder: Path, writers: Group, group: Group) -> None:
        self._kept, self._group = Checkpoints(folder / "best", _ALL, writers), group

    def offer(self, step: int, rows: Sequence[dict[str, Any]], weights: Weights) -> None:
        """Keep the weights after ``step`` updates if the log's ``rows`` say that none were better."""
        if self._group.words_of_first(best_step(rows) == step) and (weights.in_parts or self._group.leads):
            self._kept.meet()
            self._kept.save(step, _masters(weights))

    def prune(self, rows: Sequence[dict[str, Any]], checkpoints: Path) -> None:
        """Delete what no run that goes on from one of the checkpoints, or from here, would choose. By the first process."""
        if not self._group.leads:
            return
        ends = [int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")]
        wanted = {best_step(rows)} | {best_step([row for row in rows if row["step"] <= end]) for end in ends}
        for path in self._kept.folder.glob("step-*"):
            if int(path.name.removeprefix("step-")) not in wanted:
                shutil.rmtree(path)

    def take_up(self, done: int, rows: Sequence[dict[str, Any]], weights: Weights) -> int:
        """Give the weights after ``done`` steps the values of the best step; returns that step.

        Raises:
            UserError: what was kept has been damaged.
        """
        step = self._group.words_of_first(best_step(rows))
        if step is None or step == done:
            return done
        masters = _masters(weights)
        found = self._kept.at(step) if weights.in_parts or self._group.leads else None
        if self._group.words_of_first(found is None):
            raise UserError(f"{self._kept.folder}: the weights of step {step}, the best, are damaged; run the same command "
                            "again: it goes on from the last checkpoint")
        if found is not None:
            self._kept.read(found, masters)
        if not weights.in_parts:
            for tensor in masters.values():
                self._group.from_first(tensor)
        weights.restored()
        return int(step)


def _masters(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.state().items() if name.startswith("master.")}
