"""A model of `transformers` taken over by the lean engine, where all that it does is recognised; others are left as they are."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from biomistral.models.load import num_parameters
from biomistral.models.quantized.linear import same_for_any_batch
from biomistral.scoring.engine import Engine, end_tokens
from biomistral.scoring.lean.engine import CHUNK, SMALL_CHUNK, LeanEngine, packed
from biomistral.scoring.lean.layer import Current, LeanLayer
from biomistral.scoring.lean.outside import Outside, outside_of
from biomistral.scoring.lean.recognise import Parts, agree, decoder_layers, kinds_of, take_apart
from biomistral.scoring.lean.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def can_multiply() -> bool:
    """Whether oneDNN has the products of the lean layers on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def engine_for(model: "PreTrainedModel", max_batch_tokens: int = 0) -> Engine:
    """The engine of a model that is only to be evaluated: lean where its parts are recognised, which it loses to it."""
    same_for_any_batch(model)
    outside = proved(model)
    return Engine(model, max_batch_tokens) if outside is None else taken_over(model, outside, max_batch_tokens)


def taken_over(model: "PreTrainedModel", outside: Outside, max_batch_tokens: int = 0) -> LeanEngine:
    """The lean engine of a model's layers, which it loses to it, and of what was `proved` to stand around them."""
    layers, parameters = model.base_model.layers, num_parameters(model)
    return LeanEngine(outside, _given_up(layers), len(layers), parameters, end_tokens(model), max_batch_tokens)


@torch.no_grad()  # type: ignore[untyped-decorator]
def proved(model: "PreTrainedModel") -> Outside | None:
    """What stands around a model's layers, if a lean engine does what the model does; None if it does not."""
    layers = decoder_layers(model)
    if layers is None or not can_multiply() or not all(_stands_for(model, layer, place) for place, layer in kinds_of(layers)):
        return None
    return outside_of(model)


def _given_up(layers: nn.ModuleList) -> Iterator[Parts]:
    """The parts of each layer, which the model no more has."""
    for place in range(len(layers)):
        parts = take_apart(layers[place])
        assert parts is not None
        layers[place] = nn.Identity()
        yield parts


def _stands_for(model: "PreTrainedModel", layer: Any, place: int) -> bool:
    """Whether a lean layer does to random hidden states what this one does."""
    parts = take_apart(layer)
    if parts is None:
        return False
    parts = replace(parts, window=0)  # the given layer is told its window by a mask, here by none
    tokens, rotary, current = 24, model.base_model.rotary_emb, Current()
    hidden = torch.randn(1, 24, model.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(place))
    hidden, positions = (hidden / 64).bfloat16(), torch.arange(tokens)[None]  # small: what a layer adds is not lost in rounding
    given = layer(hidden, position_embeddings=rotary(hidden, positions), position_ids=positions, attention_mask=None)
    if not isinstance(given, Tensor):
        return False
    store = Store(place + 1, tokens, parts.heads // parts.groups * parts.width)
    current.now = packed([np.arange(0)], [tokens], store, [tokens - 1], SMALL_CHUNK, partial(_angles, rotary))
    padded = torch.zeros(1, SMALL_CHUNK, hidden.shape[2], dtype=torch.bfloat16)
    padded[:, :tokens] = hidden
    mine = LeanLayer(parts, place, False, current, CHUNK)(padded)[:, :tokens]
    return agree(given, mine, hidden)


def _angles(rotary: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    cosines, sines = rotary(torch.empty(1, 1, 1), positions[None])
    return cosines[0], sines[0]
