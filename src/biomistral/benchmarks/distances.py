"""Which codes lie at a given distance from a code, as ranges that can be counted and drawn from without listing them.

In the order in which a walk down the trees meets the nodes, the descendants of a node at one depth stand side by side
among all nodes of that depth. So the nodes at distance d from a node (up to an ancestor, then down another branch) are
a handful of ranges: 165,000 ICD-10-PCS codes need seconds, where listing up to thousands of relatives each needs hours.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from biomistral.codes import Hierarchy


class Candidates(Sequence[str]):
    """The codes in a few ranges ``(codes, start, stop)``, one after the other."""

    def __init__(self, ranges: list[tuple[list[str], int, int]]) -> None:
        self._ranges = ranges
        self._length = sum(stop - start for _, start, stop in ranges)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        for codes, start, stop in self._ranges:
            if index < stop - start:
                return codes[start + index]
            index -= stop - start
        raise IndexError("past the last candidate")


class Distances:
    """Distances between the codes of a hierarchy, its edges taken in both directions.

    Nodes without a name lie on the paths but are never candidates.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._parent = {code: node.parent for code, node in hierarchy.nodes.items()}
        self._depth: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._past: dict[str, int] = {}
        self._numbers: list[list[int]] = []
        self._codes: list[list[str]] = []
        self._known: dict[tuple[str, int], tuple[int, int]] = {}
        self._named = [code for code, node in hierarchy.nodes.items() if node.name]
        self._place = {code: place for place, code in enumerate(self._named)}
        for root in hierarchy.roots:
            self._walk(hierarchy, root)

    def _walk(self, hierarchy: Hierarchy, root: str) -> None:
        """Number a tree's nodes in preorder; a node's descendants have the numbers from its own to ``past``."""
        pending = [(root, 0, False)]
        while pending:
            code, depth, done = pending.pop()
            if done:
                self._past[code] = len(self._first)
                continue
            number = self._first[code] = len(self._first)
            self._depth[code] = depth
            if depth == len(self._codes):
                self._numbers.append([])
                self._codes.append([])
            if hierarchy.nodes[code].name:
                self._numbers[depth].append(number)
                self._codes[depth].append(code)
            pending.append((code, depth, True))
            pending.extend((child, depth + 1, False) for child in reversed(hierarchy.children(code)))

    @property
    def named(self) -> list[str]:
        """The codes with a name, in file order."""
        return self._named

    def others(self, code: str) -> Candidates:
        """Every named code but this one."""
        place = self._place[code]
        return Candidates([(self._named, 0, place), (self._named, place + 1, len(self._named))])

    def at(self, code: str, distances: Sequence[int]) -> Candidates:
        """The named codes at any of these distances (1 or more)."""
        return Candidates([piece for distance in distances for piece in self._ranges(code, distance)])

    def _ranges(self, code: str, distance: int) -> Iterator[tuple[list[str], int, int]]:
        """Up to each ancestor, then down to the right depth: its descendants there without those below the last step."""
        ancestor, below = code, None
        for down in range(distance, -1, -1):
            depth = self._depth[ancestor] + down
            if depth < len(self._codes):
                start, stop = self._below(ancestor, depth)
                left, right = self._below(below, depth) if below is not None else (stop, stop)
                if start < left:
                    yield self._codes[depth], start, left
                if right < stop:
                    yield self._codes[depth], right, stop
            parent = self._parent[ancestor]
            if parent is None:
                return
            ancestor, below = parent, ancestor

    def _below(self, code: str, depth: int) -> tuple[int, int]:
        """Where a node's named descendants at a depth stand among the nodes of that depth."""
        first, past = self._first[code], self._past[code]
        if past - first == 1:  # a leaf; those are many, and each is asked about by itself
            return self._between(first, past, depth)
        if (found := self._known.get((code, depth))) is None:
            found = self._known[code, depth] = self._between(first, past, depth)
        return found

    def _between(self, first: int, past: int, depth: int) -> tuple[int, int]:
        numbers = self._numbers[depth]
        start = bisect_left(numbers, first)
        return start, bisect_left(numbers, past, start)
