"""Who is sent next: requests in their order, and before them those that failed, once their wait is over."""

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from biomistral.endpoint.client import Request


@dataclass(frozen=True)
class Try:
    """A request, and how often it has failed."""

    request: Request
    failures: int = 0


class Line:
    """A wait holds nobody's place: another request takes it, as long as no more than ``most`` wait."""

    def __init__(self, requests: Iterable[Request], most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh, self._most, self._clock = iter(requests), most, clock
        self._later: list[tuple[float, int, Try]] = []
        self._failed = 0

    def again(self, task: Try, seconds: float) -> None:
        """Put a request that failed once more where its turn is after so many seconds."""
        self._failed += 1  # of two with the same time the one that failed first
        heapq.heappush(self._later, (self._clock() + seconds, self._failed, Try(task.request, task.failures + 1)))

    def next(self) -> tuple[Try, float] | None:
        """Whom to send, in so many seconds; None: nobody is left, but for those in flight."""
        due = self._later[0][0] - self._clock() if self._later else float("inf")
        if due > 0 and len(self._later) <= self._most and (request := next(self._fresh, None)) is not None:
            return Try(request), 0.0
        return (heapq.heappop(self._later)[2], max(0.0, due)) if self._later else None
