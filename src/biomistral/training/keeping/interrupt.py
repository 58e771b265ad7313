"""Ctrl-C between steps: an interruption waits for the step to end, so that a checkpoint of it can be kept."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from biomistral import ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold SIGINT and SIGTERM back; yields a function that says whether one has come. A second one interrupts at once,
    but not under torchrun, which passes each Ctrl-C on to processes that have had it already.

    A step that is interrupted half-way leaves weights that belong to no step. Outside the main thread nothing is held
    back, since only there can Python handle signals.
    """
    come: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if come and ranks.world() == 1:
            raise KeyboardInterrupt
        come.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(come)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
