"""What is asked of a model and what it says, token by token, between the threads that ask and the one that computes."""

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from biomistral.errors import UserError

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Ask:
    """A prompt's tokens, and how it is continued: by at most ``longest`` tokens; greedily at temperature 0, else drawn by
    ``seed`` from the smallest set of tokens that holds ``top_p`` of the probability. ``top``: of how many likeliest tokens the
    log-probabilities are given; ``echo``: those of the prompt's own tokens too."""

    ids: Sequence[int]
    longest: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int = 0
    echo: bool = False


@dataclass(frozen=True)
class Said:
    """A token, its log-probability under the model (temperature 1), and the likeliest tokens at its place with theirs."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass
class Speech:
    """An ask on its way: its tokens come as they are computed. ``prompt``: the prompt's own tokens, where they were asked for
    (the first has no log-probability: NaN)."""

    ask: Ask
    prompt: list[Said] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False
    _coming: "queue.SimpleQueue[Said | Finish | BaseException]" = field(default_factory=queue.SimpleQueue)

    def __iter__(self) -> Iterator[Said]:
        """The tokens, waiting for each.

        Raises:
            UserError: the model computed NaN, or has no memory for this.
        """
        while True:
            item = self._coming.get()
            if isinstance(item, UserError):
                raise item
            if isinstance(item, BaseException):
                raise RuntimeError("the model's thread failed") from item
            if isinstance(item, str):
                self.finish = item
                return
            yield item

    def cancel(self) -> None:
        """Say no more; what is being computed is still heard."""
        self.cancelled = True

    def put(self, item: "Said | Finish | BaseException") -> None:
        """For the thread that computes: a token, the end, or why there is none."""
        self._coming.put(item)
