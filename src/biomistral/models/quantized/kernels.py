"""PyTorch's own 4-bit matrix products, for few rows: how they want weights, and the way back from that.

How a kernel orders the integers is PyTorch's own affair and depends on the processor. The way back is known for those below
and proved once a process, on a small matrix; where it does not hold, the plain form has to be kept beside the kernel's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional

GROUP_SIZES = (32, 64, 128, 256)
_BLOCK = 64
"""Outputs that the CPU's packing takes together: 64 with AVX-512, 32 with AVX2; a multiple of both."""
_INNER_TILES = 8
_CUDA_INPUTS = 16 * _INNER_TILES
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Kernel:
    """``pack``: levels uint8 (N, K) to the kernel's form. ``unpack``: that and N back to levels, or None if unknown.
    ``multiply``: x (rows, K), the form, the group size, scales (K/g, N, 2) to (rows, N)."""

    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor] | None
    multiply: Callable[[Tensor, Tensor, int, Tensor], Tensor]
    block: int
    """N has to be a multiple of it."""


def kernel_for(device: torch.device, dtype: torch.dtype, inputs: int, group_size: int) -> Kernel | None:
    """The kernel that multiplies activations of ``dtype`` on ``device`` by a 4-bit matrix of so many inputs, if there is one."""
    if dtype != torch.bfloat16 or group_size not in GROUP_SIZES:
        return None
    if device.type == "cpu":
        return _cpu_kernel()
    if device.type != "cuda" or torch.version.hip or inputs % _CUDA_INPUTS or torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    return _cuda_kernel(device)


def kernel_scales(zeros: Tensor, scales: Tensor) -> Tensor:
    """(K/g, N, 2) bfloat16 from (N, K/g), in the kernels' convention w = (q - 8) * scale + offset, so offset = (8 - z) * s."""
    exact = scales.float()
    return torch.stack((exact, (8 - zeros.float()) * exact), -1).transpose(0, 1).contiguous().to(torch.bfloat16)


@cache
def _cpu_kernel() -> Kernel:
    def multiply(x: Tensor, packed: Tensor, group_size: int, scales: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, scales)
        return result

    ways = (partial(_cpu_unpack, width=width) for width in (64, 32))
    return Kernel(_cpu_pack, next((way for way in ways if _holds(_cpu_pack, way, "cpu")), None), multiply, _BLOCK)


@cache
def _cuda_kernel(device: torch.device) -> Kernel:
    def multiply(x: Tensor, packed: Tensor, group_size: int, scales: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int4pack_mm(x.contiguous(), packed, group_size, scales)
        return result

    return Kernel(_cuda_pack, _cuda_unpack if _holds(_cuda_pack, _cuda_unpack, device) else None, multiply, 8)


def _holds(pack: Callable[[Tensor], Tensor], unpack: Callable[[Tensor], Tensor], device: torch.device | str) -> bool:
    """Whether the way back is the way back, on 128 x 256 integers."""
    levels = torch.randint(0, 16, (128, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    return bool(torch.equal(unpack(pack(levels)), levels))


def _cpu_pack(levels: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32), 1)
    return packed


def _cpu_unpack(packed: Tensor, width: int) -> Tensor:
    """Blocks of ``width`` outputs; in each, by input, bytes of output i in the low half and i + width / 2 in the high one."""
    blocks = packed.view(-1, 2 * packed.shape[1], width // 2)  # (N / width, K, width / 2)
    return torch.stack((blocks & 15, blocks >> 4), 1).permute(0, 1, 3, 2).reshape(packed.shape[0], -1)


def _cuda_pack(levels: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(levels[:, 0::2] << 4 | levels[:, 1::2], _INNER_TILES)
    return packed


def _cuda_unpack(packed: Tensor) -> Tensor:
    """int32 (N / 8, K / 128, 32, 4), as the tensor cores' fragments lie: lane 4n + j and word w hold, of output n of 8 and of 32
    inputs from 32 w, inputs 8 i + 2 j in nibble i and 8 i + 2 j + 1 in nibble 4 + i."""
    blocks, supertiles = packed.shape[:2]
    nibbles = (packed[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device) & 15).to(torch.uint8)
    fragments = nibbles.view(blocks, supertiles, 8, 4, 4, 2, 4)  # block, supertile, output, lane j, word, odd, i
    return fragments.permute(0, 2, 1, 4, 6, 3, 5).reshape(8 * blocks, -1)


def pad_outputs(tensor: Tensor, block: int, dim: int) -> Tensor:
    """Zeros behind the outputs along ``dim`` up to a multiple of ``block``."""
    filling = -tensor.shape[dim] % block
    return functional.pad(tensor, (*(0, 0) * (tensor.ndim - 1 - dim % tensor.ndim), 0, filling)) if filling else tensor
