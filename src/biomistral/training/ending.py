"""The end of a training whose hours are limited: decided once, while there is time left to finish the schedule."""

from dataclasses import dataclass

RESERVED = 0.2
"""Share of ``max_hours`` kept for the learning rate to fall to 0."""


@dataclass(frozen=True)
class Ending:
    """From step ``start`` on the learning rate falls linearly, to reach 0 at step ``steps``, where training ends."""

    start: int
    steps: int

    def factor(self, step: int) -> float:
        """What the learning rate of ``start`` is multiplied with in ``step``."""
        return (self.steps - step) / (self.steps - self.start)


def early_ending(max_hours: float | None, seconds: float, done: int, steps: int) -> Ending | None:
    """The ending to take after ``done`` steps in ``seconds``; None while it is too early, or if ``steps`` fit.

    Decided when four fifths of the hours are gone: as many steps follow as the rest has time for at the mean pace so far,
    which counts evaluations and checkpoints too. The decision is kept in a checkpoint before anything follows from it, so a
    run that is cut off later ends as it would have.
    """
    if max_hours is None or seconds < (1 - RESERVED) * 3600 * max_hours:
        return None
    last = done + max(1, int((3600 * max_hours - seconds) / (seconds / done)))
    return Ending(done, last) if last < steps else None
