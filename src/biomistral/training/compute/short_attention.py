"""Attention of segments of up to 1,024 tokens on a CPU: dense products, tile by tile of queries.

Forward and backward of 2,048 tokens, 9 heads of 64, bfloat16, one core, in ms: 15 in segments of 128, 26 of 512 and 42 of 1,024;
with float32 units for the scores and probabilities computed again in backward 24, 52 and 85; torch's own kernel 47, 88 and 109.
Kept probabilities take heads * length / 2 values a token and layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    owner = torch.repeat_interleave(torch.arange(len(run), device=device), torch.tensor(run, device=device), output_size=sum(run))
    return torch.ones(len(owner), len(owner), dtype=torch.bool, device=device).triu_(1) | (owner[:, None] != owner[None, :])


def _tiles(tokens: int) -> list[tuple[slice, slice]]:
    """For each tile the slices of its queries and of the keys that one of them may look at."""
    ends = [*range(TILE, tokens, TILE), tokens]
    return [(slice(start, end), slice(0, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@contextmanager
def _products_of_bfloat16() -> Iterator[None]:
    """float32 products of what was bfloat16 before run on the CPU's bfloat16 units: exact products, float32 sums."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _probabilities(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Softmax of the scores, which are float32, in the inputs' dtype: (key_value_heads, group * queries, keys)."""
    with _products_of_bfloat16() if query.dtype == torch.bfloat16 else nullcontext():
        scores = torch.bmm(query.float(), key.float().transpose(1, 2)).mul_(scaling)
    one_segment = mask.shape[0] > TOGETHER  # then only the last keys, those of the tile itself, can be hidden
    first = mask.shape[1] - mask.shape[0] if one_segment else 0
    scores.view(-1, *mask.shape)[..., first:].masked_fill_(mask[:, first:], -torch.inf)
    return torch.softmax(scores, -1).to(query.dtype)


class _ShortAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Scores and softmax in float32, other products in the inputs' dtype; probabilities are kept for backward.

    ``query`` is (key_value_heads, group, tokens, head_dim), ``group`` query heads sharing a key head; ``key`` and ``value``
    are (key_value_heads, tokens, head_dim).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        output, kept = torch.empty_like(query), []
        for rows, keys in _tiles(query.shape[2]):
            probabilities = _probabilities(query[:, :, rows].flatten(1, 2), key[:, keys], mask[rows, keys], scaling)
            output[:, :, rows] = torch.bmm(probabilities, value[:, keys]).view_as(output[:, :, rows])
            if any(ctx.needs_input_grad):
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=torch.float32, device=key.device) for _ in range(2))
        for (rows, keys), probabilities in zip(_tiles(query.shape[2]), kept, strict=True):
            queries, gradient = query[:, :, rows].flatten(1, 2), grad_outputs[0][:, :, rows].flatten(1, 2)
            grad_value[:, keys] += torch.bmm(probabilities.transpose(1, 2), gradient)
            grad_probabilities = torch.bmm(gradient, value[:, keys].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, query.dtype)
            grad_query[:, :, rows] = torch.bmm(grad_scores, key[:, keys]).view_as(grad_query[:, :, rows])
            grad_key[:, keys] += torch.bmm(grad_scores.transpose(1, 2), queries)
        return (grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling).to(key.dtype), grad_value.to(value.dtype), None, None)


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Masked attention of one run: (1, heads, tokens, head_dim) and (1, key_value_heads, tokens, head_dim) in and out."""
    _, heads, tokens, head_dim = query.shape
    grouped = query.reshape(key.shape[1], -1, tokens, head_dim)
    output: Tensor = _ShortAttention.apply(grouped, key[0], value[0], mask, scaling)
    return output.view(1, heads, tokens, head_dim)
