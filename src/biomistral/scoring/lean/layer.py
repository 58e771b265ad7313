"""A decoder layer of four products, with compiled loops between them, over rows of all prompts behind one another.

Products are of ``chunk`` rows each, whatever there is to compute: oneDNN spends 20 ms on every new shape, and splits its sums
otherwise in another. So the bits of a row do not depend on how many stand beside it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biomistral.loops.sharing import share
from biomistral.models.quantized.dequantise import Scratch
from biomistral.scoring.lean.linears import product_of
from biomistral.scoring.lean.native import attention_space, has_tiles, run
from biomistral.scoring.lean.ordered import Places
from biomistral.scoring.lean.recognise import Norm, Parts
from biomistral.scoring.lean.store import PassingStore, Store


@dataclass
class Pass:
    """What a forward pass computes: ``tokens`` rows, padded to whole chunks, and where each finds its keys (`attention_by`).

    The rows go to the store from ``first_row`` on. ``read``: the rows that the last layer goes on with.
    """

    chunk: int
    tokens: int
    cosines: Tensor
    sines: Tensor
    starts: Tensor
    places: Tensor
    ends: Tensor
    kept: Tensor
    longest: int
    store: Store | PassingStore
    first_row: int
    read: Tensor


class Current:
    """The pass that is being computed, and the memory that layers use one after the other."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.places: Places = {}
        self.now: Pass | None = None

    def rows(self, purpose: str, count: int, width: int) -> Tensor:
        return self.scratch.take(purpose, torch.bfloat16, count * width).view(count, width)


FEWEST = 64
"""Rows of a loop that are worth a thread."""


class LeanLayer(nn.Module):  # type: ignore[misc]
    """Stands for a decoder layer of `transformers`, and is called as one; only hidden states are looked at."""

    def __init__(self, parts: Parts, index: int, last: bool, current: Current, chunk: int) -> None:
        super().__init__()
        self.index, self.last, self.current = index, last, current
        self.heads, self.groups, self.width = parts.heads, parts.groups, parts.width
        self.window, self.scale, self.activation = parts.window, parts.scale, parts.activation
        self.norms, self.head_norms = parts.norms, parts.head_norms
        roles = {"qkv": parts.qkv, "out": (parts.out,), "gate_up": parts.gate_up, "down": (parts.down,)}
        self.qkv, self.out, self.gate_up, self.down = (
            product_of(linears, chunk, role, current.scratch, current.places) for role, linears in roles.items())
        self.attend = "attend_by_tiles" if self.width % 32 == 0 and has_tiles() else "attend_by_loops"

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """``(1, rows, width)`` to the same, in place; of the last layer the rows that are read, padded to whole chunks."""
        now, rows = self.current.now, hidden[0]
        assert now is not None, "no pass was begun"
        for product in (self.qkv, self.out, self.gate_up, self.down):
            product.begin()
        mixed = self._attention(rows, now)
        if self.last:
            rows, mixed = _picked(rows, now), _picked(mixed, now)
        for start in range(0, len(rows), now.chunk):
            self._gated(rows[start:start + now.chunk], mixed[start:start + now.chunk])
        for product in (self.qkv, self.out, self.gate_up, self.down):
            product.end()
        return rows[None]

    def _attention(self, rows: Tensor, now: Pass) -> Tensor:
        mine = self.heads * self.width
        queries = self.current.rows("queries", len(rows) + 16, mine)
        keys, values = now.store.layer(self.index)
        for start in range(0, now.tokens, now.chunk):
            normal = self._normal(rows[start:start + now.chunk], None, self.norms[0])
            count, row = min(now.chunk, now.tokens - start), now.first_row + start
            self._place(self.qkv(normal), count, now, start, queries[start:], keys[row:], values[row:])
        mixed = self.current.rows("mixed", len(rows), mine)
        room = (now.longest + 63) // 64 * 64 + 16

        def attend(first: int, last: int) -> None:
            spare = self.current.scratch.take("attention", torch.float32, attention_space(room, self.width))
            run(self.attend, queries, keys, values, len(keys), mixed, len(rows), now.starts, len(now.kept), now.places, now.ends,
                now.kept, first, last, self.heads, self.groups, self.width, self.window, self.scale, room, spare)

        share(len(now.kept), 1, attend)
        return mixed

    def _place(self, projected: Tensor, count: int, now: Pass, start: int, queries: Tensor, keys: Tensor, values: Tensor) -> None:
        gains = self.head_norms or (None, None)
        query_gain, key_gain = (now.cosines if norm is None else norm.gain for norm in gains)

        def place(first: int, last: int) -> None:
            run("place", projected[first:], last - first, self.heads, self.heads // self.groups, self.width,
                now.cosines[start + first:], now.sines[start + first:], now.cosines.shape[1], query_gain, key_gain,
                int(self.head_norms is not None), self.head_norms[0].epsilon if self.head_norms else 0.0, queries[first:],
                keys[first:], values[first:], self._spare(self.width))

        share(count, FEWEST, place)

    def _gated(self, rows: Tensor, mixed: Tensor) -> None:
        normal = self._normal(rows, self.out(mixed), self.norms[1])
        both, gated = self.gate_up(normal), self.current.rows("gated", len(rows), self.gate_up.width // 2)

        def gate(first: int, last: int) -> None:
            run("gate", both[first:], self.gate_up.width // 2, self.activation, gated[first:], last - first)

        share(len(rows), FEWEST, gate)
        rows.add_(self.down(gated))

    def _normal(self, rows: Tensor, addend: Tensor | None, norm: Norm) -> Tensor:
        """The norm of rows, to which ``addend`` is added first."""
        normal, added = self.current.rows("normal", len(rows), rows.shape[1]), rows if addend is None else addend

        def normalise(first: int, last: int) -> None:
            run("normalise", rows[first:], added[first:], int(addend is not None), norm.gain, rows.shape[1], norm.epsilon,
                normal[first:], last - first, self._spare(rows.shape[1]))

        share(len(rows), FEWEST, normalise)
        return normal

    def _spare(self, size: int) -> Tensor:
        return self.current.scratch.take("row", torch.float32, size)


def _picked(rows: Tensor, now: Pass) -> Tensor:
    """The rows that are read, padded to whole chunks."""
    found = rows.new_zeros((len(now.read) + now.chunk - 1) // now.chunk * now.chunk, rows.shape[1])
    found[:len(now.read)] = rows[now.read]
    return found
