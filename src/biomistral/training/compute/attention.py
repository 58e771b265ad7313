"""Attention that never crosses a document's border, for every transformers model that lets its attention be chosen."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from biomistral.errors import UserError
from biomistral.training.compute.devices import on_cpu
from biomistral.training.compute.segments import Segments
from biomistral.training.compute.short_attention import LONGEST, run_mask, runs_together, short_attention
from biomistral.training.compute.varlen import fits, varlen_attention

NAME = "biomistral_isolated"


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Causal mask of a sliding window, (length, length), True where a query may look."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def isolated_attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                       scaling: float | None = None, dropout: float = 0.0, segments: Segments | None = None,
                       sliding_window: int | None = None, **others: Any) -> tuple[Tensor, None]:
    """Causal attention inside each segment of one row of tokens.

    ``query`` is (1, heads, tokens, head_dim), ``key`` and ``value`` (1, key_value_heads, tokens, head_dim); ``segments``
    are what the row is made of (None: one). Returns (1, tokens, heads, head_dim). A GPU takes all of them in one call where it
    can (`varlen`), else each runs by itself: no mask of tokens x tokens is made, and the work is about the sum of the squares
    of the lengths.

    Raises:
        UserError: the model's attention has a part that this one lacks (soft capping, sinks).
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if unknown:
        raise UserError(f"{type(module).__name__}: attention with {unknown[0]} cannot be trained here; use another model")
    segments = segments or Segments([query.shape[2]])
    if fits(query, dropout):
        return varlen_attention(query, key, value, segments, scaling, sliding_window), None
    dense = on_cpu(query) and not dropout and (sliding_window is None or segments.longest <= sliding_window)
    runs = runs_together(segments.lengths) if dense else [(length,) for length in segments.lengths]
    sizes = [sum(run) for run in runs]
    outputs = []
    for run, q, k, v in zip(runs, query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True):
        if dense and q.shape[2] <= LONGEST:
            outputs.append(short_attention(q, k, v, run_mask(run, q.device), scaling or q.shape[3] ** -0.5))
        else:
            outputs.append(_segment_attention(q, k, v, scaling, dropout, sliding_window))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _segment_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float,
                       window: int | None) -> Tensor:
    """Causal attention of one segment by torch's kernel; shapes as in `isolated_attention`."""
    mask = _window_mask(query.shape[2], window, query.device) if window and query.shape[2] > window else None
    output: Tensor = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling,
                                                  is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1])
    return output


def use_isolated_attention(model: PreTrainedModel) -> None:
    """Make ``model`` attend within the ``segments`` that its forward pass is given.

    Raises:
        UserError: its architecture does not let its attention be chosen.
    """
    AttentionInterface.register(NAME, isolated_attention)
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(f"{type(model).__name__}: its attention cannot be chosen, so documents could see one another; "
                        "train a Llama, Mistral, Qwen or similar model")
    model.set_attn_implementation(NAME)
