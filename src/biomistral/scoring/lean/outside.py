"""What stands before and after the decoder layers of a model: known by its parts, and proved by running it without any layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from biomistral.scoring.lean.recognise import Norm, close, norm_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_POSITIONS = 8192
"""Positions whose angles are compared; all hang on one product, so that more would show nothing else."""


@dataclass(frozen=True)
class Outside:
    """``embedding`` (vocabulary, width), whose rows are multiplied by ``scale``; the last norm; the head; rotary positions: a
    position's angles are its products with ``frequencies`` (turned / 2), their cosines and sines are multiplied by ``factor``."""

    embedding: Tensor
    scale: float
    norm: Norm
    head: nn.Module
    frequencies: Tensor
    factor: float

    def embedded(self, tokens: Tensor) -> Tensor:
        """Hidden states (tokens, width) that the first layer is given."""
        found = functional.embedding(tokens, self.embedding)
        return found if self.scale == 1 else found * torch.tensor(self.scale, dtype=found.dtype)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (positions, turned) in float32."""
        half = positions[:, None].float() * self.frequencies
        both = torch.cat((half, half), dim=1)
        return both.cos() * self.factor, both.sin() * self.factor


def outside_of(model: "PreTrainedModel") -> Outside | None:
    """The parts of a model around its layers; None where it does more, or something else, with what they give."""
    base, embedding, head = model.base_model, model.get_input_embeddings(), model.get_output_embeddings()
    norm = norm_of(getattr(base, "norm", None)) if isinstance(getattr(base, "norm", None), nn.Module) else None
    if norm is None or not isinstance(embedding, nn.Embedding) or head is None:
        return None
    rotary = base.rotary_emb
    scales = (1.0, float(torch.tensor(embedding.embedding_dim ** 0.5, dtype=torch.bfloat16)))
    found = (Outside(embedding.weight, scale, norm, head, rotary.inv_freq.detach().float(),
                     float(rotary.attention_scaling)) for scale in scales)
    return next((one for one in found if _is_all(model, one)), None)


def _is_all(model: "PreTrainedModel", outside: Outside) -> bool:
    """Whether a model without layers is this; logits within some roundings, all else to the bit."""
    tokens = torch.arange(4) * (len(outside.embedding) // 4)
    given, logits = _without_layers(model, tokens)
    positions = torch.arange(_POSITIONS)
    theirs = model.base_model.rotary_emb(torch.empty(1, 1, 1), positions[None])
    mine = torch.as_tensor(outside.head(_normal(given, outside.norm)))
    return (torch.equal(given, outside.embedded(tokens)) and close(mine.float(), logits.float())
            and all(torch.equal(a, b[0]) for a, b in zip(outside.angles(positions), theirs, strict=True)))


def _normal(rows: Tensor, norm: Norm) -> Tensor:
    return functional.rms_norm(rows.float(), norm.gain.shape, norm.gain, norm.epsilon).to(rows.dtype)


class _Seeing(nn.Module):  # type: ignore[misc]
    """Stands in the place of the layers, and keeps what it is given."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        self.seen = hidden
        return hidden


def _without_layers(model: "PreTrainedModel", tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the first layer is given for tokens, and the logits where no layer does anything to it; a row a token."""
    layers, seeing = model.base_model.layers, _Seeing()
    model.base_model.layers = nn.ModuleList([seeing])
    try:
        logits = model(input_ids=tokens[None], attention_mask=torch.zeros(1, 1, 1, 1), use_cache=False).logits[0]
    finally:
        model.base_model.layers = layers
    return seeing.seen[0], logits
