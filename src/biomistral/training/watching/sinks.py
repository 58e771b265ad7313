"""Where a training's rows go besides ``metrics.jsonl``: TensorBoard files, trackio, Weights & Biases; each by option."""

import importlib
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.recipe import plain

PROJECT = "biomistral"
Row = dict[str, Any]


class Sink(Protocol):
    """Takes rows of the log as they are added; after a resume it is first shown all rows that were kept."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


def check_sinks(names: Sequence[str]) -> None:
    """Refuse, before any work, a place to log to whose package is not installed.

    Raises:
        UserError: it is missing; the message names the extra that brings it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"log_to {name}: the package '{name}' is not installed; bring it with: "
                            f"pip install 'biomistral[{name}]'")


def open_sinks(work: Workspace) -> list[Sink]:
    """The sinks that the machine's ``log_to`` names, in its order."""
    check_sinks(work.machine.log_to)
    return [TensorBoard(work.path / name) if name == "tensorboard" else Tracker(name, work)
            for name in dict.fromkeys(work.machine.log_to)]


def _numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step" and isinstance(value, (int, float))}


class TensorBoard:
    """Event files in ``folder``. They are written anew from the rows that were kept, so no step stands in them twice."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def add(self, row: Row) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


class Tracker:
    """trackio or wandb, which have one interface: a run that goes on under its name when the training does.

    Neither can take a row back. What was sent is noted beside the log before it is sent: a training killed in between
    lacks that row there, and none arrives twice. Rows of one step are told apart by what they hold.
    """

    def __init__(self, package: str, work: Workspace) -> None:
        self._package = importlib.import_module(package)
        self._note = work.path / f"{package}.json"
        self._sent: list[Any] = json.loads(self._note.read_text()) if self._note.is_file() else []
        name = f"{work.path.name.strip('.').partition('.')[0]}-{work.key[:8]}"
        options = {"id": work.key[:16]} if package == "wandb" else {}
        self._package.init(project=PROJECT, name=name, config=plain(work.settings), resume="allow", **options)

    def add(self, row: Row) -> None:
        place = [row["step"], 2 if "validation_accuracy" in row else int("heldout_loss" in row)]
        if self._sent and place <= self._sent:
            return
        self._sent = place
        write_json(self._note, place)
        self._package.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        self._package.finish()
