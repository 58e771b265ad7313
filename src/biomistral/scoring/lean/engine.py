"""The local engine over packed prompts: no padding between them, and the same bits however they are batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.models.load import num_parameters
from biomistral.models.mapped import forget
from biomistral.models.quantized.linear import same_for_any_batch
from biomistral.scoring.engine import Engine, Prefix, Rows, token_logprobs
from biomistral.scoring.lean.layer import Current, LeanLayer, Pass
from biomistral.scoring.lean.recognise import agree, decoder_layers, kinds_of, take_apart
from biomistral.scoring.lean.store import PassingStore, Store

CHUNK = 512
"""Rows of a product of prompts."""

SMALL_CHUNK = 32
"""Of tokens that are generated one by one."""


@dataclass(frozen=True)
class Cached:
    """Keys and values of prompts: ``places[i]`` are the rows of the store that prompt i has, in its order."""

    store: Store
    places: list[np.ndarray]


def engine_for(model: PreTrainedModel, max_batch_tokens: int = 0) -> Engine:
    """The engine of a model that is only to be evaluated: lean where its layers are recognised, which it loses to it."""
    current = Current()
    layers = decoder_layers(model)
    if layers is None or not bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return Engine(model, max_batch_tokens)
    same_for_any_batch(model)
    with torch.no_grad():
        if not all(_stands_for(model, layer, place, current) for place, layer in kinds_of(layers)):
            return Engine(model, max_batch_tokens)
        parameters = num_parameters(model)
        for place in range(len(layers)):
            layer, parts = layers[place], take_apart(layers[place])
            assert parts is not None
            layers[place] = LeanLayer(parts, place, place == len(layers) - 1, current, CHUNK)
            forget(layer.parameters())
    return LeanEngine(model, current, parameters, max_batch_tokens)


def _stands_for(model: PreTrainedModel, layer: Any, place: int, current: Current) -> bool:
    """Whether a lean layer does to random hidden states what this one does."""
    parts = take_apart(layer)
    if parts is None:
        return False
    parts = replace(parts, window=0)  # the given layer is told its window by a mask, here by none
    tokens, rotary = 24, model.base_model.rotary_emb
    hidden = torch.randn(1, 24, model.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(place))
    hidden, positions = hidden.bfloat16(), torch.arange(tokens)[None]
    given = layer(hidden, position_embeddings=rotary(hidden, positions), position_ids=positions, attention_mask=None)
    if not isinstance(given, Tensor):
        return False
    store = Store(place + 1, tokens, parts.heads // parts.groups * parts.width)
    current.now = _packed([np.arange(0)], [tokens], store, [tokens - 1], SMALL_CHUNK, rotary)
    padded = torch.zeros(1, SMALL_CHUNK, hidden.shape[2], dtype=torch.bfloat16)
    padded[:, :tokens] = hidden
    mine = LeanLayer(parts, place, False, current, CHUNK)(padded)[:, :tokens]
    return agree(given, mine, hidden)


def _packed(pasts: Sequence[np.ndarray], lengths: Sequence[int], store: Store | PassingStore, reads: Sequence[int], chunk: int,
            rotary: Callable[..., Any]) -> Pass:
    """A pass over sequences that go on from rows of a store with ``lengths`` tokens each; ``reads`` counts these through."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    places = [np.concatenate((past, np.arange(start, stop) + store.used))
              for past, start, stop in zip(pasts, starts[:-1], starts[1:], strict=True)]
    positions = np.concatenate([np.arange(len(past), len(own)) for past, own in zip(pasts, places, strict=True)])
    cosines, sines = rotary(torch.empty(1, 1, 1), torch.from_numpy(positions)[None])
    kept = [0, *(_alike(one, other) for one, other in pairwise(places))]
    return Pass(chunk=chunk, tokens=int(starts[-1]), cosines=cosines[0].contiguous(), sines=sines[0].contiguous(),
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
    """An engine whose model has lean layers; what goes beyond the layers is still the model's own."""

    def __init__(self, model: PreTrainedModel, current: Current, parameters: int, max_batch_tokens: int = 0) -> None:
        super().__init__(model, max_batch_tokens)
        self.parameters, self._current = parameters, current
        self.head.chunk = SMALL_CHUNK
        self._layers: list[LeanLayer] = list(model.base_model.layers)
        self._whole = torch.zeros(1, 1, 1, 1)  # a mask that is made already: the layers look at none

    def _store(self, rows: int) -> Store:
        layer = self._layers[0]
        return Store(len(self._layers), rows, layer.heads // layer.groups * layer.width)

    def idle(self) -> None:
        self._compute([[0]], [np.arange(0)], self._store(1), [0])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        if not tokens:
            return Prefix(0, None)
        store = self._store(len(tokens))
        self._compute([tokens], [np.arange(0)], store, [len(tokens) - 1])
        store.used = len(tokens)
        return Prefix(len(tokens), store)

    def last_logits(self, prefix: Prefix, rows: Rows, keep: bool = True) -> tuple[Tensor, Any]:
        total = sum(map(len, rows))
        past = self._store(0) if prefix.cache is None else prefix.cache
        store = past.with_room(total) if keep else PassingStore(past, total)
        shared = np.arange(prefix.length)
        ends = np.cumsum([len(row) for row in rows])
        logits = self._compute(rows, [shared] * len(rows), store, (ends - 1).tolist(), exact=True)
        places = [np.concatenate((shared, np.arange(end - len(row), end) + prefix.length))
                  for row, end in zip(rows, ends, strict=True)]
        store.used += total
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
        padding = -len(flat) % chunk
        with torch.no_grad():
            now = _packed(pasts, [len(row) for row in rows], store, reads, chunk, self.model.base_model.rotary_emb)
            self._current.now = now
            self.head.read = torch.zeros(len(reads), dtype=torch.long), torch.arange(len(reads))
            self.head.exact = exact
            output = self.model(input_ids=torch.tensor([flat + [0] * padding]), attention_mask=self._whole,
                                position_ids=torch.zeros(1, len(flat) + padding, dtype=torch.long), use_cache=False)
        logits: Tensor = output.logits[0]
        return logits
