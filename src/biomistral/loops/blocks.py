"""Products of bfloat16 on any processor with vectors: 4 rows by 64 columns at a time, whose sums stay in registers.

The second factor lies in words of 32 bits, as for `tiles`: each the values of two neighbouring rows in one column. Both are
widened to float32 and multiplied with sums of one rounding each.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from biomistral.loops.steps import everywhere, fused

ROWS, VECTORS, LANES = 4, 4, 16
_LONG, _INT = ir.IntType(64), ir.IntType(32)
_INTS, _FLOATS = ir.VectorType(_INT, LANES), ir.VectorType(ir.FloatType(), LANES)


def _both(builder: Any, words: Any) -> tuple[Any, Any]:
    """The even and the odd values of words, as float32."""
    even = builder.shl(words, ir.Constant(_INTS, [16] * LANES))
    odd = builder.and_(words, ir.Constant(_INTS, [0xFFFF0000] * LANES))
    return builder.bitcast(even, _FLOATS), builder.bitcast(odd, _FLOATS)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@intrinsic  # type: ignore[untyped-decorator]
def multiply_block(context: Any, first: Any, first_stride: Any, second: Any, second_stride: Any, pairs: Any, result: Any,
                   result_stride: Any) -> Any:
    """``result`` (4, 64) float32 of ``first`` (4, 2 * pairs) and ``second`` (pairs, 64) words. Addresses, and the bytes from row
    to row."""
    def product(context: Any, builder: Any, _: Any, parts: Any) -> Any:
        a, a_stride, b, b_stride, count, c, c_stride = parts
        sums = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(VECTORS)]
                for _ in range(ROWS)]
        for row in sums:
            for own in row:
                builder.store(ir.Constant(_FLOATS, [0.0] * LANES), own)
        with cgutils.for_range(builder, count, intp=_LONG) as loop:
            at = builder.add(b, builder.mul(loop.index, b_stride))
            columns = [_both(builder, _load(builder, builder.add(at, _LONG(4 * LANES * v)), _INTS)) for v in range(VECTORS)]
            for number, row in enumerate(sums):
                place = builder.add(builder.add(a, builder.mul(_LONG(number), a_stride)), builder.mul(loop.index, _LONG(4)))
                factors = _both(builder, everywhere(builder, _load(builder, place, _INT), LANES))
                for column, own in zip(columns, row, strict=True):
                    found = builder.load(own)
                    for factor, part in zip(factors, column, strict=True):
                        found = fused(builder, factor, part, found)
                    builder.store(found, own)
        for number, row in enumerate(sums):
            for v, own in enumerate(row):
                place = builder.add(builder.add(c, builder.mul(_LONG(number), c_stride)), _LONG(4 * LANES * v))
                builder.store(builder.load(own), builder.inttoptr(place, _FLOATS.as_pointer()), align=4)
        return context.get_constant(types.int64, 0)
    return types.int64(*[types.int64] * 7), product
