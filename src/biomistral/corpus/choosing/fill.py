"""Fill token budgets with documents in a given order: pure arithmetic over arrays of sizes."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.int64]
Rooms: TypeAlias = npt.NDArray[np.float64]


class Limits:
    """Tokens that still fit: in all, and in each class of each partition (a document has one class in each).

    ``classes[p]`` has the class of every document in partition p, shape ``(documents,)``; ``rooms[p]`` what fits in each class.
    """

    def __init__(self, room: float, classes: list[npt.NDArray[np.int64]], rooms: list[Rooms]) -> None:
        self.room = room
        self.classes = classes
        self.rooms = rooms

    def fits(self, documents: Indices, tokens: Indices) -> npt.NDArray[np.bool_]:
        """Whether each document would fit if it came next."""
        fit: npt.NDArray[np.bool_] = tokens <= self.room
        for classes, rooms in zip(self.classes, self.rooms, strict=True):
            if np.isfinite(rooms).any():
                fit &= tokens <= rooms[classes[documents]]
        return fit

    def until(self, documents: Indices, tokens: Indices) -> int:
        """How many of the documents fit one after another from the first on."""
        count = int(np.searchsorted(np.cumsum(tokens), self.room, side="right"))
        for classes, rooms in zip(self.classes, self.rooms, strict=True):
            own = classes[documents[:count]]
            for number in np.flatnonzero(np.isfinite(rooms)).tolist():
                mine = np.flatnonzero(own == number)
                full = int(np.searchsorted(np.cumsum(tokens[mine]), float(rooms[number]), side="right"))
                count = min(count, int(mine[full])) if full < len(mine) else count
        return count

    def take(self, documents: Indices, tokens: Indices) -> None:
        self.room -= int(tokens.sum())
        for classes, rooms in zip(self.classes, self.rooms, strict=True):
            rooms -= np.bincount(classes[documents], tokens, len(rooms))


def fill(order: Indices, tokens: npt.NDArray[np.int32], limits: Limits) -> Indices:
    """The documents of ``order`` that are taken if each that still fits is; the others are passed over.

    The same as one look at each in turn; a step takes all up to the first that does not fit. ``limits`` are used up.
    """
    rest = order[limits.fits(order, tokens[order].astype(np.int64))]
    taken = [rest[:0]]
    while len(rest):
        sizes = tokens[rest].astype(np.int64)
        count = limits.until(rest, sizes)
        taken.append(rest[:count])
        limits.take(rest[:count], sizes[:count])
        rest, sizes = rest[count:], sizes[count:]
        rest = rest[limits.fits(rest, sizes)]  # rooms only shrink: what does not fit now never will
    return np.concatenate(taken)
