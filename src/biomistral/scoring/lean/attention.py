"""Compiled causal attention of packed sequences: each sees its own keys alone, so no row's numbers hang on its neighbours.

Sixteen queries of a head at a time: scores in float32, softmax without a running maximum, weights rounded to bfloat16, their sum
taken after rounding. What a sequence shares with the one before it is laid out once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from biomistral.loops.softmax import soften
from biomistral.loops.steps import compiled, rounded, stored


def attention_by(begin: Callable[..., Any], multiply: Callable[..., Any], end: Callable[..., Any]) -> Callable[..., Any]:
    """The loop over sequences ``first`` to ``last`` with one kind of products (`products`).

    ``queries`` (tokens + 16, heads * width) and ``out`` (tokens, heads * width) are bfloat16, ``keys`` and ``values`` the rows of
    a store. Sequence s asks with the tokens ``starts[s]`` to ``starts[s + 1]``, the last of the rows of the store that ``places``
    names from ``ends[s]`` to ``ends[s + 1]``, of which the first ``kept[s]`` are those of the sequence before it. ``window`` 0 is
    no window.
    """
    @compiled
    def attend(queries: Any, keys: Any, values: Any, out: Any, starts: Any, places: Any, ends: Any, kept: Any, first: int,
               last: int, heads: int, groups: int, width: int, window: int, scale: Any, room: int, columns: Any, pairs: Any,
               scores: Any, weights: Any, sums: Any, mixed: Any, layout: Any) -> int:
        begin(layout)
        scored, weighted, summed = np.int64(scores.ctypes.data), np.int64(weights.ctypes.data), np.int64(sums.ctypes.data)
        by = scale * np.float32(1.4426950408889634)  # the base of powers is 2
        across = (width + 63) // 64 * 64
        for kv_head in range(heads // groups):
            for s in range(first, last):
                rows = places[ends[s]:ends[s + 1]]
                old = kept[s] if s > first else 0
                lay_keys(keys, heads // groups, kv_head, rows, old, width, columns, room)
                lay_values(values, heads // groups, kv_head, rows, old, width, pairs)
                length = starts[s + 1] - starts[s]
                for head in range(kv_head * groups, (kv_head + 1) * groups):
                    for block in range(0, length, 16):
                        count, past = min(16, length - block), len(rows) - length + block
                        low = max(0, past - window + 1) if window else 0
                        start, stop = low // 64 * 64, (past + count + 63) // 64 * 64
                        asked = queries[((starts[s] + block) * heads + head) * width:]
                        for j in range(start, stop, 64):
                            multiply(asked, heads * width, columns[j:], room, width, scores[j:], room)
                        for i in range(0, count, 4):
                            own = past + i - window + 1 if window else -room
                            soften(scored + 4 * (i * room + start), 4 * room, weighted + 2 * (i * (room + 16) + start),
                                   2 * (room + 16), own - start, past + i + 1 - start, stop - start, by, summed + 4 * i)
                        for j in range(0, width, 64):
                            multiply(weights[start:], room + 16, pairs[start // 2 * width + j:], width, stop - start, mixed[j:],
                                     across)
                        for i in range(count):
                            row = (starts[s] + block + i) * heads + head
                            give(mixed[i * across:i * across + width], sums[i], out[row * width:])
        end()
        return 0

    made: Callable[..., Any] = attend
    return made


@compiled
def lay_keys(keys: Any, kv_heads: int, head: int, rows: Any, old: int, width: int, columns: Any, room: int) -> None:
    """Keys as columns (width / 2, room) of words, two neighbouring values of a key each."""
    half = width // 2
    for j in range(old, len(rows)):
        key = keys[(rows[j] * kv_heads + head) * half:]
        for i in range(half):
            columns[i * room + j] = key[i]


@compiled
def lay_values(values: Any, kv_heads: int, head: int, rows: Any, old: int, width: int, pairs: Any) -> None:
    """Values as pairs (keys / 2, width) of words, two neighbouring keys each; zeros to the next multiple of 64."""
    for j in range(old // 2 * 2, len(rows), 2):
        pair, one = pairs[j // 2 * width:(j // 2 + 1) * width], values[(rows[j] * kv_heads + head) * width:]
        if j + 1 < len(rows):
            _pair(pair, one, values[(rows[j + 1] * kv_heads + head) * width:])
        else:
            _single(pair, one)
    for j in range((len(rows) + 1) // 2 * width, (len(rows) + 63) // 64 * 32 * width):
        pairs[j] = 0


@compiled
def _pair(pair: Any, one: Any, other: Any) -> None:
    for i in range(len(pair)):
        pair[i] = np.uint32(one[i]) | np.uint32(np.uint32(other[i]) << np.uint32(16))


@compiled
def _single(pair: Any, one: Any) -> None:
    for i in range(len(pair)):
        pair[i] = np.uint32(one[i])


@compiled
def give(mixed: Any, total: Any, out: Any) -> None:
    """A row of the result, divided by the sum of its weights."""
    inverse = np.float32(1) / total
    for i in range(len(mixed)):
        out[i] = stored(rounded(mixed[i] * inverse, out[i]), out[i])
