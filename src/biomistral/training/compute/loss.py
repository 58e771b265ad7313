"""Cross-entropy of the next token without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor

from biomistral.training.compute.devices import on_cpu

CHUNK_ELEMENTS = 3 << 24
"""Logits held at once: 1,024 rows of a vocabulary of 49,152, 100 MB in bfloat16. A third of it was 20 % slower."""

ROWS_MULTIPLE = 64


CACHED_ELEMENTS = 1 << 20
"""Logits in float32 at once on a CPU, 4 MB, which stay in its cache from one operation to the next."""


def _into_gradient(logits: Tensor, target: Tensor, num_predicted: int) -> Tensor:
    """Overwrite logits (rows, vocabulary) with the gradient of their loss divided by ``num_predicted``; returns the loss."""
    exact = logits.float()
    wanted = exact.gather(1, target)
    highest = exact.amax(-1, keepdim=True)
    sums = exact.sub_(highest).exp_().sum(-1, keepdim=True)
    exact.div_(sums * num_predicted).scatter_add_(1, target, torch.full_like(sums, -1 / num_predicted))
    logits.copy_(exact)
    return (sums.log() + highest - wanted).sum(dtype=torch.float64)


class _ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Loss and its gradient in one pass: each chunk's logits are turned into gradients at once, so nothing is recomputed.

    Idea: Liger Kernel (Hsu et al. 2024), fused linear cross-entropy.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, num_predicted: int) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        rows = max(1, CHUNK_ELEMENTS // weight.shape[0] // ROWS_MULTIPLE) * ROWS_MULTIPLE
        buffer = hidden.new_empty(min(rows, len(hidden)), weight.shape[0])
        few_rows = max(1, CACHED_ELEMENTS // weight.shape[0]) if on_cpu(weight) else rows
        for start in range(0, len(hidden), rows):
            chunk, target = hidden[start:start + rows], labels[start:start + rows, None]
            logits = torch.mm(chunk, weight.T, out=buffer[:len(chunk)])
            for few, wanted in zip(logits.split(few_rows), target.split(few_rows), strict=True):
                total += _into_gradient(few, wanted, num_predicted)
            if not (wants_hidden or wants_weight):
                continue
            if grad_hidden is not None:
                grad_hidden[start:start + rows] = logits @ weight
            if grad_weight is not None:
                grad_weight += logits.T @ chunk
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total / num_predicted

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = float(grad_outputs[0])
        if scale != 1.0:
            grad_hidden = None if grad_hidden is None else grad_hidden * scale
            grad_weight = None if grad_weight is None else grad_weight * scale
        return grad_hidden, grad_weight, None, None


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, num_predicted: int) -> Tensor:
    """Sum of the cross-entropies of ``labels`` divided by ``num_predicted``, a float64 scalar.

    ``hidden`` is (tokens, hidden_size), ``weight`` the output head (vocabulary, hidden_size), ``labels`` (tokens,): every
    row has one. ``num_predicted`` counts the predicted tokens of the whole global step, so that the losses (and gradients)
    of its micro-batches add up to those of one large batch.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, labels, num_predicted)
    return loss
