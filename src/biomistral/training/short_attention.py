"""Attention of segments of up to 1,024 tokens on a CPU: dense products, tile by tile of queries.

Forward and backward of 2,048 tokens, 9 heads of 64, bfloat16, one core, in ms: torch's own kernel takes 37 in segments of 32,
47 of 128, 54 of 256, 88 of 512 and 109 of 1,024; this one 18, 24, 35, 50 and 86.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LONGEST = 1024
"""Segments up to this many tokens are computed here."""

TOGETHER = 64
"""Shorter segments are taken together up to this many tokens: fewer, larger products, of which the mask drops a part."""

TILE = 128
"""Queries at once: a tile looks only at the keys up to its own end, and its scores stay in the cache."""


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


def _tiles(tokens: int) -> list[tuple[slice, slice]]:
    """For each tile the slices of its queries and of the keys that one of them may look at."""
    ends = [*range(TILE, tokens, TILE), tokens]
    return [(slice(start, end), slice(0, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _probabilities(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Softmax of the scores, float32: (key_value_heads, group * queries, keys)."""
    scores = torch.bmm(query.float() * scaling, key.float().transpose(1, 2))
    scores.view(-1, *mask.shape).masked_fill_(mask, -torch.inf)
    return torch.softmax(scores, -1)


class _ShortAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Scores and softmax in float32, other products in the inputs' dtype; probabilities are recomputed in backward.

    ``query`` is (key_value_heads, group, tokens, head_dim), ``group`` query heads sharing a key head; ``key`` and ``value``
    are (key_value_heads, tokens, head_dim).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        output = torch.empty_like(query)
        for rows, keys in _tiles(query.shape[2]):
            probabilities = _probabilities(query[:, :, rows].flatten(1, 2), key[:, keys], mask[rows, keys], scaling)
            output[:, :, rows] = torch.bmm(probabilities.to(value.dtype), value[:, keys]).view_as(output[:, :, rows])
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, mask, output = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=torch.float32, device=key.device) for _ in range(2))
        inner = (grad_outputs[0].float() * output.float()).sum(-1, keepdim=True)  # FlashAttention-2, algorithm 2: D
        for rows, keys in _tiles(query.shape[2]):
            queries, gradient = query[:, :, rows].flatten(1, 2), grad_outputs[0][:, :, rows].flatten(1, 2)
            probabilities = _probabilities(queries, key[:, keys], mask[rows, keys], ctx.scaling)
            grad_value[:, keys] += torch.bmm(probabilities.to(value.dtype).transpose(1, 2), gradient)
            grad_scores = torch.bmm(gradient, value[:, keys].transpose(1, 2)).float()
            grad_scores = grad_scores.sub_(inner[:, :, rows].flatten(1, 2)).mul_(probabilities).to(query.dtype)
            grad_query[:, :, rows] = torch.bmm(grad_scores, key[:, keys]).view_as(grad_query[:, :, rows])
            grad_key[:, keys] += torch.bmm(grad_scores.transpose(1, 2), queries)
        return (grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling).to(key.dtype), grad_value.to(value.dtype), None, None)


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Masked attention of one run: (1, heads, tokens, head_dim) and (1, key_value_heads, tokens, head_dim) in and out."""
    _, heads, tokens, head_dim = query.shape
    grouped = query.reshape(key.shape[1], -1, tokens, head_dim)
    output: Tensor = _ShortAttention.apply(grouped, key[0], value[0], mask, scaling)
    return output.view(1, heads, tokens, head_dim)
