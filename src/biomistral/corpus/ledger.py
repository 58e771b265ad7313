"""The ledger: a few numbers and names of every document read, so that texts stay on the disk while documents are chosen.

Arrays and Arrow columns, no Python object a document: about 60 bytes each, 0.4 GB for six million, read in a minute.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Indices: TypeAlias = npt.NDArray[np.int64]

_NUMBERS = ("words", "tokens")
_NAMES = ("source", "licence", "language")
_COLUMNS = ["id", *_NUMBERS, *_NAMES, "digest", "url", "reason"]
_DETAILS = {"over_budget": "the token budget was full"}
_KEPT = -1
_NOBODY = -1


class Ledger:
    """One entry a document read, in the order of the parts; each starts as its part left it, kept or refused."""

    def __init__(self, parts: list[Path], part_sources: list[int], ours: list[bool]) -> None:
        self.parts = parts
        tables = [_read(part) for part in parts]
        sizes = [len(table) for table in tables]
        self.starts: Indices = np.cumsum([0, *sizes])
        """First index of each part, and the end."""
        self.source_index: npt.NDArray[np.int16] = np.repeat(np.array(part_sources, np.int16), sizes)
        """Which of the settings' sources a document is from."""
        self.ours: npt.NDArray[np.bool_] = np.repeat(np.array(ours, np.bool_), sizes)
        """Code articles, written by this package."""
        table = pa.concat_tables(tables) if tables else _read(None)
        del tables
        self._ids: pa.LargeStringArray = table.column("id").combine_chunks()
        self.words: npt.NDArray[np.int32] = table.column("words").to_numpy()
        self.tokens: npt.NDArray[np.int32] = table.column("tokens").to_numpy()
        """Training tokens; 0 of refused documents."""
        self.named: npt.NDArray[np.bool_] = table.column("named").to_numpy()
        """Whether a document has an address (a PMCID or DOI)."""
        self.content = _numbered(table.column("digest").combine_chunks().fill_null(b""))
        """Equal numbers where the words are equal."""
        self.sources, self.source_code = _codes(table, "source")
        self.licences, licences = _codes(table, "licence")
        self.languages, languages = _codes(table, "language")
        self.licence_code: npt.NDArray[np.int16] = licences.astype(np.int16)
        self.language_code: npt.NDArray[np.int16] = languages.astype(np.int16)
        self._reasons, codes = _codes(table, "reason")
        self._num_before = len(self._reasons)
        self._verdict: npt.NDArray[np.int16] = codes.astype(np.int16)
        """Number of the reason; -1 while a document is kept."""
        self._other: npt.NDArray[np.int32] = np.full(len(table), _NOBODY, np.int32)
        self._similarity: npt.NDArray[np.float32] = np.full(len(table), np.nan, np.float32)

    def __len__(self) -> int:
        return len(self.words)

    def kept(self) -> Indices:
        """Indices of the documents still kept, in order."""
        return np.flatnonzero(self._verdict == _KEPT)

    def ids(self, indices: npt.ArrayLike) -> list[str]:
        """Ids of some documents."""
        names: list[str] = self._ids.take(pa.array(np.asarray(indices, np.int64))).to_pylist()
        return names

    def id_code(self) -> npt.NDArray[np.int32]:
        """Equal numbers where the ids are equal."""
        return _numbered(self._ids)

    def refuse(self, indices: npt.ArrayLike, reason: str, other: npt.ArrayLike | None = None,
               similarity: npt.ArrayLike | None = None) -> None:
        """Refuse kept documents, for copies of ``other`` and, if not exact, how similar they are to it."""
        at = np.asarray(indices, np.int64)
        assert (self._verdict[at] == _KEPT).all(), "refused twice"
        if reason not in self._reasons[self._num_before:]:
            self._reasons.append(reason)
        self._verdict[at] = self._reasons.index(reason, self._num_before)
        if other is not None:
            self._other[at] = other
        if similarity is not None:
            self._similarity[at] = similarity

    def refusals(self) -> dict[str, int]:
        """Reason -> documents, most frequent first."""
        totals: dict[str, int] = {}
        counts = np.bincount(self._verdict + 1, minlength=len(self._reasons) + 1)[1:]
        for reason, count in zip(self._reasons, counts.tolist(), strict=True):
            totals[reason] = totals.get(reason, 0) + count
        return dict(sorted(((reason, count) for reason, count in totals.items() if count), key=lambda item: (-item[1], item[0])))

    def rejected(self) -> Iterator[dict[str, str]]:
        """The rows of ``refused.parquet``, in order, streamed from the parts."""
        for indices, table in self.groups(self._verdict != _KEPT, ["id", "source", "detail"]):
            others = self.ids(np.maximum(self._other[indices], 0))
            for row, index, other in zip(table.to_pylist(), indices.tolist(), others, strict=True):
                verdict = int(self._verdict[index])
                detail = row["detail"] if verdict < self._num_before else self._detail(index, self._reasons[verdict], other)
                yield {"id": row["id"], "source": row["source"], "reason": self._reasons[verdict], "detail": detail}

    def _detail(self, index: int, reason: str, other: str) -> str:
        if self._other[index] == _NOBODY:
            return _DETAILS.get(reason, "")
        similarity = float(self._similarity[index])
        return f"copy of {other}" if np.isnan(similarity) else f"{similarity:.2f} similar to {other}"

    def groups(self, wanted: npt.NDArray[np.bool_], columns: list[str]) -> Iterator[tuple[Indices, pa.Table]]:
        """The wanted documents' columns, a few MB at a time: (their indices, a table with one row each), in order."""
        for part, start, end in zip(self.parts, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            if not wanted[start:end].any():
                continue
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    mask = wanted[start:start + size]
                    if mask.any():
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        yield start + np.flatnonzero(mask), table if mask.all() else table.filter(pa.array(mask))
                    start += size


_SCHEMA = pa.schema([
    ("id", pa.large_string()), *((name, pa.int32()) for name in _NUMBERS),
    *((name, pa.dictionary(pa.int32(), pa.string())) for name in _NAMES), ("digest", pa.large_binary()),
    ("reason", pa.dictionary(pa.int32(), pa.string())), ("named", pa.bool_())])


def _read(part: Path | None) -> pa.Table:
    """A part's light columns, each in one piece: 40 documents a piece would take more memory for the pieces than for them."""
    if part is None:
        return _SCHEMA.empty_table()
    with pq.ParquetFile(part, read_dictionary=[*_NAMES, "reason"]) as file:
        present = file.schema_arrow.names
        table = file.read([name for name in _COLUMNS if name in present], use_threads=False)
    if "tokens" not in present:
        table = table.append_column("tokens", pa.array(np.zeros(len(table), np.int32)))
    named = pc.fill_null(pc.greater(pc.binary_length(table.column("url")), 0), False)
    return table.append_column("named", named).select(_SCHEMA.names).cast(_SCHEMA).unify_dictionaries().combine_chunks()


def _codes(table: pa.Table, name: str) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The values of a dictionary column and each row's number among them, -1 for null."""
    merged = table.column(name).unify_dictionaries().combine_chunks()
    return merged.dictionary.to_pylist(), merged.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _numbered(values: pa.Array) -> npt.NDArray[np.int32]:
    """Equal numbers for equal values. In one piece: of many chunks each would keep all values seen before it."""
    numbers: npt.NDArray[np.int32] = values.dictionary_encode().indices.to_numpy()
    return numbers
