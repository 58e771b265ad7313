"""The ledger: a few numbers and names of every document read, so that texts stay on the disk while documents are chosen."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.corpus import dedup

_COLUMNS = ["id", "source", "licence", "language", "words", "digest", "url", "reason", "detail"]


class Ledger:
    """One entry a document read, in the order of the parts; ``reason[i]`` is None while document i is kept."""

    def __init__(self, parts: list[Path], part_sources: list[int], ours: list[bool]) -> None:
        self.parts = parts
        tables = [pq.read_table(part, columns=_COLUMNS) for part in parts]
        sizes = [len(table) for table in tables]
        self.starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        columns: dict[str, Any] = {name: pa.concat_tables(tables).column(name).to_pylist() for name in _COLUMNS}
        self.id: list[str] = columns["id"]
        self.source: list[str] = columns["source"]
        self.licence: list[str] = columns["licence"]
        self.language: list[str] = columns["language"]
        self.reason: list[str | None] = columns["reason"]
        self.detail: list[str] = columns["detail"]
        self.digest: list[bytes] = columns["digest"]
        self.named: npt.NDArray[np.bool_] = np.array([bool(url) for url in columns["url"]], np.bool_)
        """Whether a document has a PMCID or DOI, and so an address."""
        self.words: npt.NDArray[np.int64] = np.array(columns["words"], np.int64)
        self.source_index: npt.NDArray[np.int32] = np.repeat(np.array(part_sources, np.int32), sizes)
        self.ours: npt.NDArray[np.bool_] = np.repeat(np.array(ours, np.bool_), sizes)

    def __len__(self) -> int:
        return len(self.id)

    def kept(self) -> npt.NDArray[np.int64]:
        """Indices of the documents still kept, in order."""
        return np.array([index for index, reason in enumerate(self.reason) if reason is None], np.int64)

    def refuse(self, index: int, reason: str, detail: str) -> None:
        self.reason[index], self.detail[index] = reason, detail

    def refusals(self) -> dict[str, int]:
        """Reason -> documents, most frequent first."""
        return dict(sorted(Counter(filter(None, self.reason)).items(), key=lambda item: (-item[1], item[0])))

    def groups(self, wanted: npt.NDArray[np.bool_], columns: list[str]) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
        """The wanted documents' columns, a few MB at a time: (their indices, a table with one row each), in order."""
        for part, start, end in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            if not wanted[start:end].any():
                continue
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    mask = wanted[start:start + size]
                    if mask.any():
                        table = file.read_row_group(group, columns=columns)
                        yield start + np.flatnonzero(mask), table.filter(pa.array(mask))
                    start += size


def refuse_copies(ledger: Ledger, threshold: float | None, scratch: Path) -> None:
    """Refuse exact and, from ``threshold`` on, near copies.

    Kept is the copy with the most words; of equals one with an address (PMCID or DOI), then the first read.
    Code articles are left out: each retells others on purpose.
    """
    candidates = ledger.kept()
    candidates = candidates[~ledger.ours[candidates]]
    rank = candidates[np.lexsort((candidates, ~ledger.named[candidates], -ledger.words[candidates]))]
    for index, (reason, better) in dedup.copies(ledger.id, ledger.digest, rank).items():
        ledger.refuse(index, reason, f"copy of {ledger.id[better]}")
    if threshold is not None and len(candidates):
        rank = np.array([index for index in rank.tolist() if ledger.reason[index] is None], np.int64)
        for index, (better, similarity) in dedup.near_copies(_signatures(ledger, scratch), rank, threshold).items():
            ledger.refuse(index, "near_duplicate", f"{similarity:.2f} similar to {ledger.id[better]}")


def _signatures(ledger: Ledger, scratch: Path) -> dedup.Signatures:
    """All signatures as an array on the disk, shape ``(documents, 128)``; zeros where a document has none."""
    matrix = np.lib.format.open_memmap(scratch / "signatures.npy", "w+", np.uint32, (len(ledger), dedup.HASHES))
    for indices, table in ledger.groups(np.ones(len(ledger), np.bool_), ["signature"]):
        for index, signature in zip(indices.tolist(), table.column("signature").to_pylist(), strict=True):
            if signature is not None:
                matrix[index] = np.frombuffer(signature, np.uint32)
    return matrix
