"""What the compiled loops are made of: one text for float32 and for bfloat16, which is stored as its bits in uint16.

Written as machine steps, so that they stay 32 bits wide. Every operation rounds by itself and nothing is reordered or contracted
(no ``fastmath``): that is what makes the bits those of PyTorch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])
_INT, _FLOAT = ir.IntType(32), ir.FloatType()


def compiled(function: F) -> F:
    """A function that a loop calls."""
    made: F = njit(error_model="numpy")(function)
    return made


def reducing(function: F) -> F:
    """A function whose sums may be taken in any order, so that they are vectors'; the order is the same at every call of one
    length."""
    made: F = njit(error_model="numpy", fastmath={"reassoc"})(function)
    return made


def _same(_: Any, __: Any, ___: Any, parts: Any) -> Any:
    return parts[0]


@intrinsic  # type: ignore[untyped-decorator]
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` with one rounding."""
    return types.float32(types.float32, types.float32, types.float32), lambda _, builder, __, parts: builder.fma(*parts)


@intrinsic  # type: ignore[untyped-decorator]
def value(context: Any, stored: Any) -> Any:
    """A stored element as float32."""
    def widened(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(parts[0], _INT), _INT(16)), _FLOAT)
    return types.float32(stored), _same if stored is types.float32 else widened


@intrinsic  # type: ignore[untyped-decorator]
def rounded(context: Any, value: Any, like: Any) -> Any:
    """A float32 rounded to the type of ``like``, still as a float32; a NaN that arithmetic made stays one."""
    def to_bfloat16(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        bits = builder.bitcast(parts[0], _INT)
        odd = builder.and_(builder.lshr(bits, _INT(16)), _INT(1))
        up = builder.add(builder.add(bits, _INT(0x7FFF)), odd)
        return builder.bitcast(builder.and_(up, _INT(0xFFFF0000)), _FLOAT)
    return types.float32(types.float32, like), _same if like is types.float32 else to_bfloat16


@intrinsic  # type: ignore[untyped-decorator]
def stored(context: Any, value: Any, like: Any) -> Any:
    """A float32 that needs no more rounding, as the type of ``like`` is stored."""
    def narrowed(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.trunc(builder.lshr(builder.bitcast(parts[0], _INT), _INT(16)), ir.IntType(16))
    return like(types.float32, like), _same if like is types.float32 else narrowed


@intrinsic  # type: ignore[untyped-decorator]
def bits(context: Any, value: Any) -> Any:
    """A float32's bits as a signed integer, which is negative where the float's sign is."""
    return types.int32(types.float32), lambda _, builder, __, parts: builder.bitcast(parts[0], _INT)


@intrinsic  # type: ignore[untyped-decorator]
def magnitude(context: Any, value: Any) -> Any:
    """A float32's bits without its sign."""
    def unsigned(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.and_(builder.bitcast(parts[0], _INT), _INT(0x7FFFFFFF))
    return types.int32(types.float32), unsigned


@intrinsic  # type: ignore[untyped-decorator]
def nothing(context: Any, row: Any) -> Any:
    """0 as `own_magnitude` gives the magnitudes of a row's elements."""
    kind = types.uint32 if row.dtype is types.float32 else types.uint16
    return kind(row), lambda _, __, ___, ____: ir.Constant(ir.IntType(kind.bitwidth), 0)


@intrinsic  # type: ignore[untyped-decorator]
def own_magnitude(context: Any, stored: Any) -> Any:
    """A stored element's bits without its sign, no wider than it is stored: twice as many bfloat16 to a vector."""
    kind = types.uint32 if stored is types.float32 else types.uint16

    def unsigned(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        own = ir.IntType(kind.bitwidth)
        return builder.and_(builder.bitcast(parts[0], own), own((1 << (kind.bitwidth - 1)) - 1))
    return kind(stored), unsigned


@intrinsic  # type: ignore[untyped-decorator]
def as_float32s(context: Any, own: Any) -> Any:
    """What `own_magnitude` gives, as the bits of a float32."""
    def widened(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.shl(builder.zext(parts[0], ir.IntType(64)), ir.IntType(64)(32 - own.bitwidth))
    return types.int64(own), widened


@intrinsic  # type: ignore[untyped-decorator]
def first_byte(context: Any, eight: Any) -> Any:
    """The place of the first byte that is not 0 in eight of them, as one number that is not 0."""
    def zeros(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.lshr(builder.cttz(parts[0], ir.Constant(ir.IntType(1), 1)), ir.IntType(64)(3))
    return types.int64(types.uint64), zeros


_THROUGH = np.polynomial.Chebyshev.interpolate(np.exp2, 4, domain=[-0.5, 0.5]).convert(kind=np.polynomial.Polynomial)
_POWERS = [float(coefficient) for coefficient in _THROUGH.coef]


def everywhere(builder: Any, number: Any, lanes: int) -> Any:
    """One number in all lanes of a vector."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, _INT(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` with one rounding, of numbers or of vectors of them."""
    size = getattr(a.type, "count", 0)
    kind = ir.FunctionType(a.type, [a.type] * 3)
    name = f"llvm.fma.v{size}f32" if size else "llvm.fma.f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), (a, b, c))


def powered(builder: Any, x: Any) -> Any:
    """`power_of_two` of a number, or of every one of a vector.

    x = n + f with n an integer, which stands in the low bits of x + 3 * 2**22 and is added to the exponent of a polynomial in f,
    of degree 4 through 2**f. Vectors of it need no library.
    """
    size = getattr(x.type, "count", 0)

    def constant(number: float) -> Any:
        single = float(np.float32(number))
        return ir.Constant(x.type, [single] * size if size else single)

    whole = ir.VectorType(_INT, size) if size else _INT
    shifted = builder.fadd(x, constant(12582912.0))
    rest = builder.fsub(x, builder.fsub(shifted, constant(12582912.0)))
    found = constant(_POWERS[4])
    for coefficient in _POWERS[3::-1]:
        found = fused(builder, found, rest, constant(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * size if size else 23))
    bits = builder.add(builder.bitcast(found, whole), exponent)
    return builder.select(builder.fcmp_ordered("<", x, constant(-126.0)), constant(0.0), builder.bitcast(bits, x.type))


@intrinsic  # type: ignore[untyped-decorator]
def power_of_two(context: Any, x: Any) -> Any:
    """2 to the power of a float32 up to 127, to 4 parts in a million; 0 below -126."""
    return types.float32(types.float32), lambda _, builder, __, parts: powered(builder, parts[0])


@intrinsic  # type: ignore[untyped-decorator]
def reciprocal(context: Any, x: Any) -> Any:
    """1 / x of a finite float32, to a few units in the last place: an estimate refined, in a third of a division's time."""
    def inverse(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        return builder.fdiv(ir.Constant(_FLOAT, 1.0), parts[0], flags=("arcp",))
    return types.float32(types.float32), inverse


@intrinsic  # type: ignore[untyped-decorator]
def square_root(context: Any, x: Any) -> Any:
    """The square root of a float32."""
    def root(_: Any, builder: Any, __: Any, parts: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.sqrt.f32"), parts)
    return types.float32(types.float32), root
