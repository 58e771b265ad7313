"""The loops as functions of C: arrays come as pointers with their sizes. ``SIGNATURES`` of `native` says of which kinds."""

from typing import Any

import numpy as np
from numba import carray

from biomistral.scoring.lean import pointwise
from biomistral.scoring.lean.attention import attention_by
from biomistral.scoring.lean.products import begin_plain, begin_tiles, end_plain, end_tiles, multiply_plain, multiply_tiles
from biomistral.scoring.lean.weights import weighing


def normalise(rows: Any, addend: Any, added: int, gain: Any, width: int, epsilon: float, out: Any, count: int, spare: Any) -> int:
    pointwise.normalise(carray(rows, count * width), carray(addend, added * count * width), carray(gain, width), epsilon,
                        carray(out, count * width), carray(spare, width))
    return 0


def gate(both: Any, width: int, kind: int, out: Any, count: int) -> int:
    pointwise.gate(carray(both, 2 * count * width), width, kind, carray(out, count * width))
    return 0


def place(projected: Any, count: int, heads: int, kv_heads: int, width: int, cosines: Any, sines: Any, rotary: int,
          query_gain: Any, key_gain: Any, gained: int, epsilon: float, queries: Any, keys: Any, values: Any, spare: Any) -> int:
    """Of every token's queries, keys and values, as one product made them: turn the first two, and put all in their places."""
    mine, shared = heads * width, kv_heads * width
    both, space = mine + 2 * shared, carray(spare, width)
    for token in range(count):
        row = carray(projected, (token + 1) * both)[token * both:]
        angle, end = token * rotary, (token + 1) * rotary
        cosine, sine = carray(cosines, end)[angle:], carray(sines, end)[angle:]
        pointwise.turn(row[:mine], width, cosine, sine, carray(query_gain, gained * width), epsilon,
                       carray(queries, (token + 1) * mine)[token * mine:], space)
        pointwise.turn(row[mine:mine + shared], width, cosine, sine, carray(key_gain, gained * width), epsilon,
                       carray(keys, (token + 1) * shared)[token * shared:], space)
        pointwise.copy(row[mine + shared:], carray(values, (token + 1) * shared)[token * shared:])
    return 0


def _weighing(bits: int) -> Any:
    weigh = weighing(bits)

    def entry(levels: Any, zeros: Any, scales: Any, block: int, pairs: int, groups: int, outputs: int, first: int, last: int,
              words: Any) -> int:
        """`weights.weighing`, of integers as `ordered` lays them."""
        return int(weigh(carray(levels, 1).ctypes.data, carray(zeros, 1).ctypes.data, carray(scales, 1).ctypes.data, block, pairs,
                         groups, outputs, first, last, carray(words, 1).ctypes.data))
    return entry


weigh_4, weigh_8 = _weighing(4), _weighing(8)


def _attending(attend: Any) -> Any:
    def entry(queries: Any, keys: Any, values: Any, stored: int, out: Any, tokens: int, starts: Any, sequences: int, places: Any,
              ends: Any, kept: Any, first: int, last: int, heads: int, groups: int, width: int, window: int, scale: float,
              room: int, spare: Any) -> int:
        """`attention_by`; ``spare`` as `native.attention_space` has it."""
        shared, across = heads // groups * width, (width + 63) // 64 * 64
        a, b = width // 2 * room, width // 2 * room + 64
        c, d, e, f = a + b, a + b + 16 * room, a + b + 16 * room + 8 * (room + 16), a + b + 16 * room + 8 * (room + 16) + 16
        space = carray(spare, f + 16 * across + 16)
        return int(attend(
            carray(queries, (tokens + 16) * heads * width), carray(keys, stored * shared).view(np.uint32),
            carray(values, stored * shared), carray(out, tokens * heads * width), carray(starts, sequences + 1),
            carray(places, carray(ends, sequences + 1)[sequences]), carray(ends, sequences + 1), carray(kept, sequences), first,
            last, heads, groups, width, window, scale, room, space[:a].view(np.uint32), space[a:c].view(np.uint32), space[c:d],
            space[d:e].view(np.uint16), space[e:f], space[f:f + 16 * across], space[f + 16 * across:].view(np.uint8)))
    return entry


attend_by_tiles = _attending(attention_by(begin_tiles, multiply_tiles, end_tiles))
attend_by_loops = _attending(attention_by(begin_plain, multiply_plain, end_plain))
