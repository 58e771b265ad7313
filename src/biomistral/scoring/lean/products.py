"""Compiled small products for attention, (16, K) x (K, 64 a step): in AMX tiles, or in vectors.

The second factor lies in words of 32 bits, each two neighbouring rows of one column, as the tiles take it.
"""

from typing import Any

import numpy as np

from biomistral.loops import tiles
from biomistral.loops.blocks import multiply_block
from biomistral.loops.steps import compiled

ROWS, COLUMNS, DEPTH = 16, 64, 32
"""Rows of a product, columns computed at once, values a tile multiplies in one step."""


@compiled
def begin_tiles(layout: Any) -> None:
    """Lay out all eight tiles as 16 rows of 64 bytes; ``layout`` is 64 bytes to say it in."""
    for j in range(64):
        layout[j] = 0
    layout[0] = 1
    for tile in range(8):
        layout[16 + 2 * tile] = 64
        layout[48 + tile] = 16
    tiles.configure(np.int64(layout.ctypes.data))


@compiled
def end_tiles() -> None:
    tiles.release()


@compiled
def multiply_tiles(first: Any, first_stride: int, second: Any, second_stride: int, depth: int, result: Any,
                   result_stride: int) -> None:
    """``result`` (16, 64) of ``first`` (16, depth) and ``second`` (depth / 2, 64) words; strides in elements from row to row."""
    a, b, c = np.int64(first.ctypes.data), np.int64(second.ctypes.data), np.int64(result.ctypes.data)
    a_stride, b_stride, c_stride = np.int64(2 * first_stride), np.int64(4 * second_stride), np.int64(4 * result_stride)
    tiles.clear_0()
    tiles.clear_1()
    tiles.clear_2()
    tiles.clear_3()
    for _ in range(depth // 32):
        tiles.load_first(a, a_stride)
        tiles.load_0(b, b_stride)
        tiles.add_0()
        tiles.load_1(b + 64, b_stride)
        tiles.add_1()
        tiles.load_2(b + 128, b_stride)
        tiles.add_2()
        tiles.load_3(b + 192, b_stride)
        tiles.add_3()
        a += 64
        b += 16 * b_stride
    tiles.store_0(c, c_stride)
    tiles.store_1(c + 64, c_stride)
    tiles.store_2(c + 128, c_stride)
    tiles.store_3(c + 192, c_stride)


@compiled
def begin_plain(layout: Any) -> None:
    pass


@compiled
def end_plain() -> None:
    pass


@compiled
def multiply_plain(first: Any, first_stride: int, second: Any, second_stride: int, depth: int, result: Any,
                   result_stride: int) -> None:
    """`multiply_tiles` without tiles."""
    a, b, c = np.int64(first.ctypes.data), np.int64(second.ctypes.data), np.int64(result.ctypes.data)
    a_stride, b_stride, c_stride = np.int64(2 * first_stride), np.int64(4 * second_stride), np.int64(4 * result_stride)
    for i in range(0, 16, 4):
        multiply_block(a + i * a_stride, a_stride, b, b_stride, depth // 2, c + i * c_stride, c_stride)
