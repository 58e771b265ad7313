"""Progress on stderr: a bar on a terminal, silence elsewhere; messages go to the log."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")
log = logging.getLogger("biomistral")


class Bar(Protocol):
    """What `bar` yields: call ``advance`` as work is done, ``say`` to change the words beside it."""

    def advance(self, amount: float = 1) -> None: ...

    def say(self, text: str) -> None: ...


class _Silent:
    def advance(self, amount: float = 1) -> None:
        return None

    def say(self, text: str) -> None:
        return None


class _Rich:
    def __init__(self, progress: "object", task: object, description: str) -> None:
        self._progress, self._task, self._description = progress, task, description

    def advance(self, amount: float = 1) -> None:
        self._progress.advance(self._task, amount)  # type: ignore[attr-defined]

    def say(self, text: str) -> None:
        self._progress.update(self._task, description=f"{self._description} {text}")  # type: ignore[attr-defined]


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Bar]:
    """A progress bar over ``total`` units of work; a no-op when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Rich(progress, progress.add_task(description, total=total), description)


def track(items: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Iterate over ``items`` with a progress bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
