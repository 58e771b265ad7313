"""Weights that lie in a mapped file: the memory of those that are not needed any more goes back to the system."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_DONTNEED = 4  # of madvise, on Linux


def forget(tensors: Iterable[Tensor]) -> None:
    """Take the pages of tensors out of memory that are an unchanged part of a file; they would be read again if they were looked
    at. Other tensors, and other systems than Linux, are left alone."""
    mapped = _mapped_files()
    for tensor in tensors:
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        if any(low <= start and start + size <= high for low, high in mapped):
            first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)


def _mapped_files() -> list[tuple[int, int]]:
    """Where in this process's memory safetensors files lie."""
    table = Path("/proc/self/maps")
    lines = table.read_text().splitlines() if table.is_file() else []
    spans = (line.split()[0].split("-") for line in lines if line.endswith(".safetensors"))
    return [(int(low, 16), int(high, 16)) for low, high in spans]
