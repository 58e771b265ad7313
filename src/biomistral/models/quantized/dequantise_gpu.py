"""Integers back to weights on a GPU, (q - z) * s: one Triton kernel, or PyTorch's own operations where there is no Triton.

A weight is read once as an integer and written once, 3 bytes in all, where PyTorch's operations move 7. Both compute in float32
and round once, so they give the same bits, which is proved once a process before the kernel is used.
"""

import subprocess
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from biomistral.progress import log


def dequantise_gpu(stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """Write (q - z) * s into ``out`` (N, K); shapes as in `dequantise.dequantise_cpu`."""
    if stored.is_cuda and _kernel_holds(stored.device):
        from biomistral.models.quantized.gpu_kernel import dequantise

        dequantise(stored, shift, zeros, scales, out)
    else:
        dequantise_by_operations(stored, shift, zeros, scales, out)


def dequantise_by_operations(stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """The same in as few operations as PyTorch has: the last one multiplies in float32 and rounds as it writes."""
    if shift is None:
        centred = stored.to(torch.int16).unflatten(1, (zeros.shape[1], -1)).sub_(zeros[..., None])
    else:
        levels = torch.empty_like(stored)
        _nibbles(stored, shift, levels)
        centred = levels.view(torch.int8).unflatten(1, (zeros.shape[1], -1)).sub_(zeros[..., None].view(torch.int8))
    torch.mul(centred, scales[..., None].float(), out=out.view(centred.shape))


def _nibbles(stored: Tensor, shift: int, levels: Tensor) -> None:
    if shift:
        torch.bitwise_right_shift(stored, shift, out=levels)
    else:
        torch.bitwise_and(stored, 15, out=levels)


@cache
def _kernel_holds(device: torch.device) -> bool:
    """Whether the kernel can be built here and gives the bits of the operations."""
    if find_spec("triton") is None:
        return False
    try:
        if kernel_is_exact(device):
            return True
        log.warning("Triton's kernel computes other weights here: dequantising in PyTorch's operations, slower")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # it is built with a C compiler
        log.warning("Triton's kernel cannot be built here (%s): dequantising in PyTorch's operations, slower", error)
    return False


def kernel_is_exact(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether the kernel gives the bits of the operations, in 4 and in 8 bits, on 5 x 192 random integers."""
    from biomistral.models.quantized.gpu_kernel import dequantise

    draw = torch.Generator().manual_seed(0)
    stored, zeros = (torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8).to(device) for shape in ((5, 192), (5, 3)))
    scales = torch.randn(5, 3, generator=draw).to(device, torch.float16)
    for shift, own_zeros in ((None, zeros), (0, zeros & 15), (4, zeros & 15)):
        found, wanted = torch.full((2, 5, 192), torch.nan, dtype=dtype, device=device)
        dequantise(stored, shift, own_zeros, scales, found)
        dequantise_by_operations(stored, shift, own_zeros, scales, wanted)
        if not torch.equal(found, wanted):
            return False
    return True
