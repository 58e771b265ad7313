"""The local engine over packed prompts: no padding between them, and the same bits however they are batched."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomistral.memory import give_back_freed_memory
from biomistral.models.mapped import forget
from biomistral.scoring.engine import Engine, Prefix, Rows, batch_tokens, token_logprobs
from biomistral.scoring.lean.head import Head
from biomistral.scoring.lean.layer import Current, LeanLayer, Pass
from biomistral.scoring.lean.outside import Outside
from biomistral.scoring.lean.recognise import Parts
from biomistral.scoring.lean.store import PassingStore, Store

CHUNK = 512
"""Rows of a product of prompts."""

SMALL_CHUNK = 32
"""Of tokens that are generated one by one."""

Angles = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Cosines and sines (positions, turned) of positions."""


@dataclass(frozen=True)
class Cached:
    """Keys and values of prompts: ``places[i]`` are the rows of the store that prompt i has, in its order."""

    store: Store
    places: list[np.ndarray]


def packed(pasts: Sequence[np.ndarray], lengths: Sequence[int], store: Store | PassingStore, reads: Sequence[int], chunk: int,
           angles: Angles) -> Pass:
    """A pass over sequences that go on from rows of a store with ``lengths`` tokens each; ``reads`` counts these through."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    places = [np.concatenate((past, np.arange(start, stop) + store.used))
              for past, start, stop in zip(pasts, starts[:-1], starts[1:], strict=True)]
    positions = np.concatenate([np.arange(len(past), len(own)) for past, own in zip(pasts, places, strict=True)])
    cosines, sines = angles(torch.from_numpy(positions))
    kept = [0, *(_alike(one, other) for one, other in pairwise(places))]
    return Pass(chunk=chunk, tokens=int(starts[-1]), cosines=cosines.contiguous(), sines=sines.contiguous(),
                starts=torch.from_numpy(starts), places=torch.from_numpy(np.concatenate(places)),
                ends=torch.from_numpy(np.concatenate(([0], np.cumsum([len(own) for own in places])))),
                kept=torch.tensor(kept), longest=max(map(len, places)), store=store, first_row=store.used,
                read=torch.tensor(reads))


def _alike(one: np.ndarray, other: np.ndarray) -> int:
    """How many leading numbers are the same."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


class LeanEngine(Engine):
    """An engine of its own layers: it has no model of `transformers` that others could ask."""

    def __init__(self, outside: Outside, layers: Iterable[Parts], num_layers: int, parameters: int, ends: set[int],
                 max_batch_tokens: int = 0) -> None:
        """``layers`` are packed one after the other, and the pages of a file that they came from given back at once."""
        self.device, self.dtype, self.parameters, self.ends = torch.device("cpu"), torch.bfloat16, parameters, ends
        self.max_batch_tokens = max_batch_tokens or batch_tokens(self.device)
        self._outside, self._current = outside, Current()
        self._head = Head(outside.head, SMALL_CHUNK, self._current.scratch)
        self._layers: list[LeanLayer] = []
        with torch.no_grad():
            for place, parts in enumerate(layers):
                self._layers.append(LeanLayer(parts, place, place == num_layers - 1, self._current, CHUNK))
                forget(parts.weights())
        give_back_freed_memory()  # 30 MB that packing left between blocks in use

    def _store(self, rows: int) -> Store:
        layer = self._layers[0]
        return Store(len(self._layers), rows, layer.heads // layer.groups * layer.width)

    def idle(self) -> None:
        self._compute([[0]], [np.arange(0)], self._store(1), [0])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        if not tokens:
            return Prefix(0, None)
        store = self._store(len(tokens))
        store.pending = tuple(tokens)
        return Prefix(len(tokens), store)

    def last_logits(self, prefix: Prefix, rows: Rows, keep: bool = True) -> tuple[Tensor, Any]:
        """Tokens of the prefix that are pending are computed with the rows: alone they would mostly be padding."""
        past = self._store(0) if prefix.cache is None else prefix.cache
        first = [past.pending] if past.pending else []
        total = sum(map(len, rows))
        store = past.with_room(len(past.pending) + total) if keep else PassingStore(past, total)
        shared = np.arange(prefix.length)
        ends = np.cumsum([len(row) for row in rows])
        logits = self._compute([*first, *rows], [np.arange(0) for _ in first] + [shared] * len(rows), store,
                               (ends - 1 + len(past.pending)).tolist(), exact=True)
        past.settle(store)
        places = [np.concatenate((shared, np.arange(end - len(row), end) + prefix.length))
                  for row, end in zip(rows, ends, strict=True)]
        store.used = prefix.length + total
        return logits.float(), Cached(store, places) if isinstance(store, Store) else None

    def continuation_logprobs(self, prefix: Prefix, cache: Any, lengths: Sequence[int], parents: Sequence[int],
                              rows: Rows) -> list[Tensor]:
        inputs = [row[:-1] for row in rows]
        total = sum(map(len, inputs))
        logits = self._compute(inputs, [cache.places[parent] for parent in parents], cache.store.with_room(total), range(total))
        return token_logprobs(logits, rows)

    def greedy(self, prefix: Prefix, rows: Rows, longest: int, ends: set[int]) -> list[list[int]]:
        logits, cache = self.last_logits(prefix, rows)
        store, places = cache.store.with_room(len(rows) * longest), list(cache.places)

        def step(tokens: Tensor, _: int) -> Tensor:
            found = self._compute([[token] for token in tokens.tolist()], places, store, range(len(rows)), exact=True,
                                  chunk=SMALL_CHUNK)
            for row in range(len(rows)):
                places[row] = np.append(places[row], store.used + row)
            store.used += len(rows)
            return found.float()

        return self._say(logits, step, longest, ends)

    def _compute(self, rows: Rows, pasts: Sequence[np.ndarray], store: Store | PassingStore, reads: Sequence[int],
                 exact: bool = False, chunk: int = CHUNK) -> Tensor:
        """Logits after the tokens ``reads`` of all rows behind one another; each goes on from its past, and the store grows."""
        flat = [token for row in rows for token in row]
        with torch.no_grad():
            self._current.now = packed(pasts, [len(row) for row in rows], store, reads, chunk, self._outside.angles)
            hidden = self._outside.embedded(torch.tensor(flat + [0] * (-len(flat) % chunk)))[None]
            for layer in self._layers:
                hidden = layer(hidden)
            normal = self._current.normal(hidden[0, :len(reads)], None, self._outside.norm)
            return self._head(normal, exact)
