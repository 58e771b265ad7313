"""Attention of short segments on a CPU: dense products, several segments at once under one mask.

Forward and backward of 2,048 tokens, 9 heads of 64, bfloat16, one core: torch's own CPU kernel takes 40 ms in segments of
32 and 50 ms in segments of 128, this 17 and 24; at 512 both take 95, and from there on the kernel's tiling wins.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LONGEST = 256
"""Segments up to this many tokens are computed here."""

TOGETHER = 64
"""Shorter segments are taken together up to this many tokens: fewer, larger products, of which the mask drops a part."""


def runs_together(segments: list[int]) -> list[tuple[int, ...]]:
    """Cut a row's segments, in order, into runs of at most `TOGETHER` tokens (or of one longer segment)."""
    runs: list[tuple[int, ...]] = []
    for length in segments:
        if runs and sum(runs[-1]) + length <= TOGETHER:
            runs[-1] = (*runs[-1], length)
        else:
            runs.append((length,))
    return runs


@lru_cache(maxsize=512)  # each layer asks for the same ones
def run_mask(run: tuple[int, ...], device: torch.device) -> Tensor:
    """(tokens, tokens), True where a query may not look: later tokens and other segments."""
    owner = torch.repeat_interleave(torch.arange(len(run), device=device), torch.tensor(run, device=device))
    return torch.ones(len(owner), len(owner), dtype=torch.bool, device=device).triu_(1) | (owner[:, None] != owner[None, :])


class _ShortAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Scores and softmax in float32, other products in the inputs' dtype; probabilities are recomputed in backward.

    ``query`` is (key_value_heads, group * tokens, head_dim): the query heads that share a key head stand one after another.
    """

    @staticmethod
    def _probabilities(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
        scores = torch.bmm(query.float() * scaling, key.float().transpose(1, 2))
        scores.view(-1, *mask.shape).masked_fill_(mask, -torch.inf)
        return torch.softmax(scores, -1)

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        probabilities = _ShortAttention._probabilities(query, key, mask, scaling)
        output = torch.bmm(probabilities.to(value.dtype), value)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, mask, output = ctx.saved_tensors
        gradient = grad_outputs[0]
        probabilities = _ShortAttention._probabilities(query, key, mask, ctx.scaling)
        grad_value = torch.bmm(probabilities.to(value.dtype).transpose(1, 2), gradient)
        grad_scores = torch.bmm(gradient, value.transpose(1, 2)).float()
        grad_scores.sub_((gradient.float() * output.float()).sum(-1, keepdim=True)).mul_(probabilities)
        grad_scores = grad_scores.to(query.dtype)
        grad_query, grad_key = torch.bmm(grad_scores, key), torch.bmm(grad_scores.transpose(1, 2), query)
        return grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling), grad_value, None, None


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Masked attention of one run: (1, heads, tokens, head_dim) and (1, key_value_heads, tokens, head_dim) in and out."""
    _, heads, tokens, head_dim = query.shape
    grouped = query.reshape(key.shape[1], -1, head_dim)
    output: Tensor = _ShortAttention.apply(grouped, key[0], value[0], mask, scaling)
    return output.view(1, heads, tokens, head_dim)
