"""The Triton kernel of `dequantise_gpu`; imported only where Triton is installed."""

from typing import Any

import triton
from torch import Tensor
from triton import language as tl

AT_ONCE = 2048
"""Weights of one program: 16 bytes of integers for each of its 128 threads."""


@triton.jit  # type: ignore[untyped-decorator]
def _dequantise(stored: Any, zeros: Any, scales: Any, out: Any, width: Any, groups: Any, group_size: tl.constexpr,
                shift: tl.constexpr, mask: tl.constexpr, at_once: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * at_once + tl.arange(0, at_once)
    inside = columns < width
    levels = (tl.load(stored + row * width + columns, mask=inside, other=0) >> shift) & mask
    group = row * groups + columns // group_size
    zero = tl.load(zeros + group, mask=inside, other=0)
    scale = tl.load(scales + group, mask=inside, other=0).to(tl.float32)
    weights = (levels.to(tl.int32) - zero.to(tl.int32)).to(tl.float32) * scale
    tl.store(out + row * width + columns, weights.to(out.dtype.element_ty), mask=inside)


def dequantise(stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """Write (q - z) * s into ``out`` (N, K); shapes as in `dequantise.dequantise_cpu`."""
    assert all(tensor.is_contiguous() for tensor in (stored, zeros, scales, out))
    (rows, width), groups = stored.shape, zeros.shape[1]
    _dequantise[rows, -(-width // AT_ONCE)](stored, zeros, scales, out, width, groups, width // groups, shift or 0,
                                            255 if shift is None else 15, AT_ONCE)
