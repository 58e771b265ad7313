"""What a decoder layer keeps for backward, and what it computes again: ``gradient_checkpointing``.

One core, SmolLM2-135M's shape, 4 x 512 tokens in bfloat16, every weight trained: 4.6 GB and 5.5 CPU seconds a step with nothing
computed again, 3.8 GB and 6.3 s with ``selective``, 3.2 GB and 6.6 s with ``full`` (memory: `perf/memory_plan.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

_SAVE = torch.utils.checkpoint.CheckpointPolicy.MUST_SAVE
_RECOMPUTE = torch.utils.checkpoint.CheckpointPolicy.PREFER_RECOMPUTE
_PRODUCTS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1}
"""Products of linear layers, and which argument is the input; attention's are `bmm`, large to keep and cheap to repeat."""

_CHEAP = 4
"""A product over rows this many times shorter than the hidden states is cheap for each value it gives: an adapter's second."""


def _keeps(hidden: int, last: int | None, context: Any, operation: Any, *arguments: Any, **named: Any) -> Any:
    """Whether to keep what an operation computes: matrix products, but for cheap ones and the layer's last (``last`` wide)."""
    place = _PRODUCTS.get(operation)
    if place is None:
        return _RECOMPUTE
    width = arguments[place].shape[-1]
    return _SAVE if width != last and width * _CHEAP >= hidden else _RECOMPUTE


def use_recomputation(model: PreTrainedModel, how: str) -> None:
    """Have each decoder layer keep everything (``none``), its input alone (``full``) or also its matrix products (``selective``).

    What is computed again gives the same bits, dropout included; `full` repeats a layer's forward pass, `selective` norms,
    activations and attention (Korthikanti et al. 2022; here by torch's policy for each operation).
    """
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        policy: Callable[..., Any] = partial(_keeps, model.config.hidden_size, getattr(model.config, "intermediate_size", None))
        options["context_fn"] = partial(torch.utils.checkpoint.create_selective_checkpoint_contexts, policy)
    newer = getattr(model, "activation_checkpointing_enable", None)  # the name since transformers 5.20 or so
    if newer is not None:
        newer(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
