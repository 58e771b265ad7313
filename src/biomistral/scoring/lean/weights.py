"""Integers to weights in pairs, as compiled loops: 0.1 ns a weight on one core."""

from typing import Any

from llvmlite import ir
from numba import int64, types
from numba.extending import intrinsic

from biomistral.loops.steps import compiled

LANES = 16
"""Outputs computed at once; blocks are multiples of it."""
_INT, _FLOAT = ir.IntType(32), ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_INT, LANES), ir.VectorType(_FLOAT, LANES)


def _all(number: int) -> Any:
    return ir.Constant(_INTS, [number] * LANES)


def _at(builder: Any, address: Any, lane: Any) -> Any:
    """What stands at an address, as wide numbers of a kind."""
    return builder.load(builder.inttoptr(address, ir.VectorType(lane, LANES).as_pointer()), align=1)


def _in_upper_half(builder: Any, exact: Any) -> Any:
    """Float32s rounded to bfloat16 (half to even), as bits of which the lower 16 are no longer meant."""
    bits = builder.bitcast(exact, _INTS)
    odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
    return builder.add(builder.add(bits, odd), _all(0x7FFF))


def _pairs(bits: int) -> Any:
    """A step that puts the pairs of weights of 16 outputs to an address, from their integers, zero points and scales there."""
    stored = ir.IntType(2 * bits)

    @intrinsic  # type: ignore[untyped-decorator]
    def step(context: Any, levels: Any, zeros: Any, scales: Any, words: Any) -> Any:
        def made(context: Any, builder: Any, _: Any, parts: Any) -> Any:
            both = builder.zext(_at(builder, parts[0], stored), _INTS)
            zero, scale = _at(builder, parts[1], _FLOAT), _at(builder, parts[2], _FLOAT)

            def weight(level: Any) -> Any:
                centred = builder.fsub(builder.uitofp(level, _FLOATS), zero)
                return _in_upper_half(builder, builder.fmul(centred, scale))

            low, high = weight(builder.and_(both, _all((1 << bits) - 1))), weight(builder.lshr(both, _all(bits)))
            pairs = builder.or_(builder.lshr(low, _all(16)), builder.and_(high, _all(0xFFFF0000)))
            builder.store(pairs, builder.inttoptr(parts[3], _INTS.as_pointer()), align=4)
            return context.get_constant(types.int64, 0)
        return types.int64(types.intp, types.intp, types.intp, types.intp), made
    return step


def weighing(bits: int) -> Any:
    """The loop over blocks ``first`` to ``last`` that puts weights (q - z) * s of integers of so many bits.

    ``levels`` (blocks, pairs, block) holds two integers each, ``words`` of the same shape takes their weights; ``zeros`` and
    ``scales`` (groups, outputs) are float32. All are addresses.
    """
    step, size = _pairs(bits), bits // 4

    @compiled
    def weigh(levels: int, zeros: int, scales: int, block: int, pairs: int, groups: int, outputs: int, first: int, last: int,
              words: int) -> int:
        for b in range(first, last):
            for group in range(groups):
                for lane in range(0, block, LANES):
                    by = int64(4 * (group * outputs + b * block + lane))
                    for pair in range(group * pairs // groups, (group + 1) * pairs // groups):
                        at = (b * pairs + pair) * block + lane
                        step(levels + size * at, zeros + by, scales + by, words + 4 * at)
        return 0
    return weigh
