"""Products of bfloat16 in the tile registers of a processor with AMX: 16 rows of 64 bytes each, a product of two in 16 cycles.

A tile of the first factor holds 16 rows of 32 values; one of the second 16 rows of 16 words, each word the values of two
neighbouring rows in one column; one of the result 16 x 16 float32. Source: Intel's Architecture Instruction Set Extensions
Programming Reference, chapter 3.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _LONG, _POINTER = ir.IntType(8), ir.IntType(64), ir.IntType(8).as_pointer()


def _call(builder: Any, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _nothing(context: Any) -> Any:
    return context.get_constant(types.int64, 0)


@intrinsic  # type: ignore[untyped-decorator]
def configure(context: Any, layout: Any) -> Any:
    """Take the tiles into use as 64 bytes at an address lay them out."""
    def load(context: Any, builder: Any, _: Any, parts: Any) -> Any:
        _call(builder, "ldtilecfg", builder.inttoptr(parts[0], _POINTER))
        return _nothing(context)
    return types.int64(types.int64), load


@intrinsic  # type: ignore[untyped-decorator]
def release(context: Any) -> Any:
    """Give the tiles back: a thread that keeps them is switched more slowly."""
    def free(context: Any, builder: Any, _: Any, __: Any) -> Any:
        _call(builder, "tilerelease")
        return _nothing(context)
    return types.int64(), free


def _moving(name: str, tile: int) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, address: Any, stride: Any) -> Any:
        def moved(context: Any, builder: Any, _: Any, parts: Any) -> Any:
            _call(builder, name, _BYTE(tile), builder.inttoptr(parts[0], _POINTER), parts[1])
            return _nothing(context)
        return types.int64(types.int64, types.int64), moved
    made: Callable[..., Any] = move
    return made


def _multiplying(result: int, first: int, second: int) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(context: Any) -> Any:
        def added(context: Any, builder: Any, _: Any, __: Any) -> Any:
            _call(builder, "tdpbf16ps", _BYTE(result), _BYTE(first), _BYTE(second))
            return _nothing(context)
        return types.int64(), added
    made: Callable[..., Any] = multiply
    return made


def _clearing(tile: int) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def clear(context: Any) -> Any:
        def zeroed(context: Any, builder: Any, _: Any, __: Any) -> Any:
            _call(builder, "tilezero", _BYTE(tile))
            return _nothing(context)
        return types.int64(), zeroed
    made: Callable[..., Any] = clear
    return made


clear_0, clear_1, clear_2, clear_3 = (_clearing(tile) for tile in range(4))
store_0, store_1, store_2, store_3 = (_moving("tilestored64", tile) for tile in range(4))
load_first = _moving("tileloadd64", 4)
load_0, load_1, load_2, load_3 = (_moving("tileloadd64", 5 + tile % 3) for tile in range(4))
add_0, add_1, add_2, add_3 = (_multiplying(tile, 4, 5 + tile % 3) for tile in range(4))
"""``add_i``: result i += first * second i. Loads and stores take an address and the bytes from row to row."""
