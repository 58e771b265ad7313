"""The token files of all parts: any document's tokens and pieces by its index, nothing loaded before it is asked for."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Tokens: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

TOKENS, PIECES = ".tokens", ".pieces"
"""Beside ``part-00000.parquet``: all tokens in a row; int32 pairs (tokens, UTF-8 bytes), one a piece."""


class TokenStore:
    """Tokens of the documents in some parts, in the order of their rows."""

    def __init__(self, parts: list[Path], dtype: str) -> None:
        self._parts, self._dtype = parts, np.dtype(dtype)
        counts = [pq.read_table(part, columns=["tokens", "pieces"]) for part in parts]
        self._starts = np.cumsum([0, *(len(table) for table in counts)])
        self._tokens = [_borders(table.column("tokens").to_numpy()) for table in counts]
        self._pieces = [_borders(table.column("pieces").to_numpy()) for table in counts]
        self._open = lru_cache(maxsize=256)(self._open_part)  # of ten thousand archives not all are held open

    def document(self, index: int) -> Iterator[tuple[Tokens, int]]:
        """The pieces of a document: tokens (a view of the file) and UTF-8 bytes of each."""
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        row = index - int(self._starts[part])
        tokens, pieces = self._open(part)
        start = int(self._tokens[part][row])
        for length, num_bytes in pieces[self._pieces[part][row]:self._pieces[part][row + 1]].tolist():
            yield tokens[start:start + length], num_bytes
            start += length

    def _open_part(self, part: int) -> tuple[Tokens, npt.NDArray[np.int32]]:
        return _mapped(self._parts[part].with_suffix(TOKENS), self._dtype), \
            _mapped(self._parts[part].with_suffix(PIECES), np.dtype(np.int32)).reshape(-1, 2)


def _borders(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def _mapped(path: Path, dtype: np.dtype) -> npt.NDArray:  # type: ignore[type-arg]
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.zeros(0, dtype)
