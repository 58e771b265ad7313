"""Limits of requests and tokens a minute: requests are spaced evenly, so that no minute, wherever it begins, holds more."""

import time
from collections.abc import Callable


class Pace:
    """When the next request may go. A request of n tokens keeps the way closed for n times the time that a token has."""

    def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._free = self._held = clock()

    def turn(self, tokens: int) -> float:
        """Take the next turn; returns the seconds until it comes."""
        now = self._clock()
        start = max(now, self._free)
        self._free = start + max(self._seconds_a_request, tokens * self._seconds_a_token)
        return start - now

    def hold(self, seconds: float) -> None:
        """Let no request go for so long: a server that throws one out would throw the others out too."""
        self._held = max(self._held, self._clock() + seconds)

    def held(self) -> float:
        """Seconds for which nothing may go yet."""
        return max(0.0, self._held - self._clock())
