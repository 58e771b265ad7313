"""Attention of a whole row of segments in one call of a GPU: torch's kernel for sequences of several lengths.

One call a segment, as `attention.isolated_attention` makes elsewhere, leaves a GPU waiting: a row of 8,192 tokens of PubMed's
pieces has about 30 segments, and each layer would start 30 kernels forwards and 60 backwards.
"""

import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from biomistral.training.compute.segments import Segments

_DTYPES = (torch.bfloat16, torch.float16)
_MOST_HEAD_DIM, _HEAD_DIM_MULTIPLE = 256, 8  # flash attention's
_OLDEST_GPU = (8, 0)  # Ampere


@cache
def kernel_is_there() -> bool:
    """Whether this torch has the kernel (2.10 and later)."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def fits(query: Tensor, dropout: float) -> bool:
    """Whether the kernel takes such queries, (1, heads, tokens, head_dim): bfloat16 on Ampere or later, no dropout."""
    return (query.is_cuda and not dropout and query.dtype in _DTYPES and query.shape[3] <= _MOST_HEAD_DIM
            and query.shape[3] % _HEAD_DIM_MULTIPLE == 0 and kernel_is_there()
            and torch.cuda.get_device_capability(query.device) >= _OLDEST_GPU)


@cache
def _has_to_be_told(kernel: Callable[..., Any]) -> bool:
    """Whether heads may share keys only on request: torch 2.11 lets them do so unasked and knows no such argument."""
    known = inspect.signature(kernel).parameters.values()
    return any(one.name == "enable_gqa" or one.kind is one.VAR_KEYWORD for one in known)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None,
                     window: int | None) -> Tensor:
    """Causal attention inside each segment; shapes as in `attention.isolated_attention`, which it returns too.

    ``window`` is how many tokens a query sees, itself among them; the kernel counts those to its left.
    """
    from torch.nn.attention import varlen

    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (tokens, heads, head_dim)
    borders, longest = segments.borders(query.device), segments.longest
    left = -1 if window is None or window >= longest else window - 1
    shared = {"enable_gqa": query.shape[1] != key.shape[1]} if _has_to_be_told(varlen.varlen_attn) else {}
    output: Tensor = varlen.varlen_attn(*rows, borders, borders, longest, longest, scale=scaling, window_size=(left, 0), **shared)
    return output[None]
