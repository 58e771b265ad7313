"""The softmax of four rows of scores side by side, in vectors of 16: what a row's loops cost to begin and end is half of them."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from biomistral.loops.steps import everywhere, fused, powered

ROWS, LANES = 4, 16
_LONG, _INT, _SHORT, _FLOAT = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.FloatType()
_INTS, _SHORTS, _FLOATS = (ir.VectorType(lane, LANES) for lane in (_INT, _SHORT, _FLOAT))
_NONE, _ZERO = (ir.Constant(_FLOATS, [number] * LANES) for number in (float("-inf"), 0.0))


def _ints(number: int) -> Any:
    return ir.Constant(_INTS, [number] * LANES)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _sum(builder: Any, one: Any, other: Any) -> Any:
    return builder.fadd(one, other)


def _folded(builder: Any, vector: Any, step: Callable[[Any, Any, Any], Any]) -> Any:
    """All lanes as one number, halves against one another."""
    for half in (8, 4, 2, 1):
        turned = ir.Constant(_INTS, [(lane + half) % LANES for lane in range(LANES)])
        vector = step(builder, vector, builder.shuffle_vector(vector, vector, turned))
    return builder.extract_element(vector, _INT(0))


def _at(builder: Any, row: Any, size: int, place: Any, kind: Any) -> Any:
    """Where 16 numbers of ``size`` bytes begin, from the row's address on."""
    return builder.inttoptr(builder.add(row, builder.mul(place, _LONG(size))), kind.as_pointer())


def _most(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed(">", one, other), one, other)


def _least(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _cut(builder: Any, row: Any, place: Any, low: Any, high: Any) -> None:
    """Of 16 scores, make those before ``low`` and from ``high`` on as low as can be."""
    own = ir.Constant(_INTS, list(range(LANES)))
    first, behind = (everywhere(builder, builder.trunc(builder.sub(bound, place), _INT), LANES) for bound in (low, high))
    inside = builder.and_(builder.icmp_signed(">=", own, first), builder.icmp_signed("<", own, behind))
    there = _at(builder, row, 4, place, _FLOATS)
    builder.store(builder.select(inside, builder.load(there, align=4), _NONE), there, align=4)


def _each(builder: Any, bounds: tuple[Any, Any]) -> Any:
    """A loop over the places of vectors."""
    return cgutils.for_range_slice(builder, *bounds, _LONG(LANES), intp=_LONG)


def _cut_ends(builder: Any, rows: list[Any], lows: list[Any], highs: list[Any], bounds: tuple[Any, Any]) -> None:
    """Cut the two vectors at either end, where rows may differ: masks of all would take as long as the rest."""
    begin, last = bounds
    late = _most(builder, begin, builder.sub(last, _LONG(2 * LANES)))
    early = _least(builder, builder.add(begin, _LONG(2 * LANES)), late)
    with builder.if_then(builder.icmp_signed(">", lows[-1], _LONG(0))), _each(builder, (begin, early)) as (place, _):
        for row, low, high in zip(rows, lows, highs, strict=True):
            _cut(builder, row, place, low, high)
    with _each(builder, (late, last)) as (place, _):
        for row, low, high in zip(rows, lows, highs, strict=True):
            _cut(builder, row, place, low, high)


def _kept(builder: Any, rows: list[Any], value: Any) -> list[Any]:
    """A vector for each row, which loops keep in a register."""
    kept = [cgutils.alloca_once(builder, _FLOATS) for _ in rows]
    for own in kept:
        builder.store(value, own)
    return kept


def _highest(builder: Any, rows: list[Any], bounds: tuple[Any, Any]) -> list[Any]:
    tops = _kept(builder, rows, _NONE)
    with _each(builder, bounds) as (place, _):
        for row, top in zip(rows, tops, strict=True):
            scores = builder.load(_at(builder, row, 4, place, _FLOATS), align=4)
            builder.store(_larger(builder, scores, builder.load(top)), top)
    return [_folded(builder, builder.load(top), _larger) for top in tops]


def _weigh(builder: Any, rows: list[Any], results: list[Any], scale: Any, bounds: tuple[Any, Any]) -> list[Any]:
    """Write the weights, and return their sums."""
    by, totals = everywhere(builder, scale, LANES), _kept(builder, rows, _ZERO)
    less = [everywhere(builder, builder.fneg(builder.fmul(top, scale)), LANES) for top in _highest(builder, rows, bounds)]
    with _each(builder, bounds) as (place, _):
        for row, result, offset, total in zip(rows, results, less, totals, strict=True):
            scores = builder.load(_at(builder, row, 4, place, _FLOATS), align=4)
            power = builder.bitcast(powered(builder, fused(builder, scores, by, offset)), _INTS)
            rounded = builder.lshr(builder.add(power, _ints(0x8000)), _ints(16))
            builder.store(builder.trunc(rounded, _SHORTS), _at(builder, result, 2, place, _SHORTS), align=2)
            exact = builder.bitcast(builder.shl(rounded, _ints(16)), _FLOATS)
            builder.store(builder.fadd(builder.load(total), exact), total)
    return [_folded(builder, builder.load(total), _sum) for total in totals]


@intrinsic  # type: ignore[untyped-decorator]
def soften(context: Any, scores: Any, scores_stride: Any, weights: Any, weights_stride: Any, low: Any, high: Any, stop: Any,
           scale: Any, sums: Any) -> Any:
    """Weights 2 ** (scale * (score - largest)) of four rows of scores, rounded to bfloat16, and the ``sums`` of what was rounded.

    Of the first row those from ``low`` (or 0) to ``high`` count, of each next one those that stand one place further; others, up
    to ``stop``, a multiple of 16, get the weight 0. Addresses of float32, of bfloat16 (weights), and the bytes from row to row.
    Scores that do not count are overwritten.
    """
    def four(context: Any, builder: Any, _: Any, parts: Any) -> Any:
        source, source_stride, target, target_stride, first, behind, end, factor, found = parts
        numbers = [_LONG(number) for number in range(ROWS)]
        rows = [builder.add(source, builder.mul(number, source_stride)) for number in numbers]
        results = [builder.add(target, builder.mul(number, target_stride)) for number in numbers]
        lows = [_most(builder, builder.add(first, number), _LONG(0)) for number in numbers]
        highs = [_least(builder, builder.add(behind, number), end) for number in numbers]
        begin, last = (builder.and_(bound, _LONG(-LANES)) for bound in (lows[0], builder.add(highs[-1], _LONG(LANES - 1))))
        _cut_ends(builder, rows, lows, highs, (begin, last))
        for number, total in enumerate(_weigh(builder, rows, results, factor, (begin, last))):
            builder.store(total, builder.inttoptr(builder.add(found, _LONG(4 * number)), _FLOAT.as_pointer()))
        for bounds in ((_LONG(0), begin), (last, end)):
            with _each(builder, bounds) as (place, _):
                for result in results:
                    builder.store(ir.Constant(_SHORTS, [0] * LANES), _at(builder, result, 2, place, _SHORTS), align=2)
        return context.get_constant(types.int64, 0)
    return types.int64(*[types.int64] * 7, types.float32, types.int64), four
