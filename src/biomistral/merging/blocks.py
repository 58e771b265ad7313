"""How a flattened tensor is cut: into chunks that are read at once, and into blocks whose sums no cut can change."""

import math
from collections.abc import Iterator
from typing import Any

BLOCK = 4096
"""Elements whose sum is taken at once. Blocks start at multiples of it, so that sums do not depend on how a tensor is cut."""


def chunks(numel: int, size: int) -> Iterator[tuple[int, int]]:
    """``(start, count)`` of consecutive parts of a flattened tensor."""
    for start in range(0, numel, size):
        yield start, min(size, numel - start)


def whole_units(chunk: int, unit: int = 1) -> int:
    """The smallest multiple of both `BLOCK` and ``unit`` that is at least ``chunk``."""
    step = math.lcm(BLOCK, unit)
    return -(-chunk // step) * step


def halved(blocks: Any) -> Any:
    """Sums of blocks, ``(blocks, BLOCK)`` float32 of numpy or PyTorch: the second half is added to the first until one is left.

    Additions alone, in a fixed order: loops, vectors and GPUs give the same bits. Blocks are added up with ``math.fsum``, which
    no order can change.
    """
    while blocks.shape[1] > 1:
        half = blocks.shape[1] // 2
        blocks = blocks[:, :half] + blocks[:, half:]
    return blocks[:, 0]
