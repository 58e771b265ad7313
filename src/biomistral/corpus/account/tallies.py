"""Sums and histograms over Arrow tables that come one after another: memory does not grow with the number of rows."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LONGEST = 1 << 20  # lengths are counted one by one up to here (8 MB of counters); longer documents count as this long
EDGES = (0, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
RATIO_EDGES = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0, 6.0)
_SUMMED = ("words", "tokens")


class Tally:
    """Documents, words and tokens by the values of one or more columns."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._sums: dict[tuple[str, ...], list[int]] = {}

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has the columns, ``words`` and ``tokens``; null counts as ``""``, as 0."""
        grouped = table.group_by(list(self._columns), use_threads=False).aggregate(
            [([], "count_all"), *((name, "sum") for name in _SUMMED)]).to_pydict()
        names = zip(*(grouped[name] for name in self._columns), strict=True)
        counts = zip(grouped["count_all"], *(grouped[f"{name}_sum"] for name in _SUMMED), strict=True)
        for name, more in zip(names, counts, strict=True):
            total = self._sums.setdefault(tuple("" if part is None else str(part) for part in name), [0, 0, 0])
            total[:] = [old + (new or 0) for old, new in zip(total, more, strict=True)]

    def __len__(self) -> int:
        return len(self._sums)

    def rows(self, by_name: bool = False) -> list[dict[str, Any]]:
        """One row for each value, named by its columns: most documents first, or in order of the names."""
        order = sorted(self._sums.items(), key=lambda item: item[0] if by_name else (-item[1][0], *item[0]))
        return [{**dict(zip(self._columns, name, strict=True)), "documents": count, "words": words, "tokens": tokens}
                for name, (count, words, tokens) in order]


class Lengths:
    """The distribution of a column of lengths, exact below a million."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(LONGEST + 1, np.int64)
        self._total = self._largest = 0

    def add(self, column: pa.ChunkedArray) -> None:
        values = np.clip(column.drop_null().to_numpy(), 0, None).astype(np.int64)
        if len(values):
            self._total += int(values.sum())
            self._largest = max(self._largest, int(values.max()))
            self._counts += np.bincount(np.minimum(values, LONGEST), minlength=LONGEST + 1)

    def summary(self) -> dict[str, Any] | None:
        """``mean``, ``largest``, ``quantiles`` (nearest rank) and ``bins`` from each edge to the next; None of no rows."""
        documents = int(self._counts.sum())
        if not documents:
            return None
        below = np.cumsum(self._counts)
        quantiles = {str(q): int(np.searchsorted(below, q / 100 * documents)) for q in (5, 25, 50, 75, 95)}
        counts = np.add.reduceat(self._counts, EDGES)
        return {"documents": documents, "mean": round(self._total / documents, 1), "largest": self._largest,
                "quantiles": quantiles, "bins": _bins(EDGES, counts)}


class Ratios:
    """How many documents have so many tokens a word."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(len(RATIO_EDGES), np.int64)

    def add(self, table: pa.Table) -> None:
        table = table.filter(pc.and_(pc.greater(table.column("words"), 0), pc.is_valid(table.column("tokens"))))
        ratios = table.column("tokens").to_numpy() / table.column("words").to_numpy()
        self._counts += np.bincount(np.searchsorted(RATIO_EDGES, ratios, "right") - 1, minlength=len(RATIO_EDGES))

    def bins(self) -> list[dict[str, Any]]:
        return _bins(RATIO_EDGES, self._counts)


def _bins(edges: tuple[float, ...], counts: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """From each edge (included) to the next (excluded; the last has none), without the empty ones at either end."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    ends = [*edges[1:], None]
    return [{"from": edges[index], "to": ends[index], "documents": int(counts[index])}
            for index in range(int(filled[0]), int(filled[-1]) + 1)]
