"""AutoAWQ's "GEMM" layout of a 4-bit linear layer, to the bit: what ``quantization_config.version: gemm`` means on disk.

For K inputs, N outputs and groups of g inputs: ``qweight`` int32 (K, N/8), ``qzeros`` int32 (K/g, N/8),
``scales`` float16 (K/g, N); nibble i (from the lowest bits) of word c holds column ``8c + ORDER[i]``; w = (q - z) * s.
In memory this package keeps the plain transposed form: levels (N, K) and zeros (N, K/g) as uint8, scales (N, K/g).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SUFFIXES = ("qweight", "qzeros", "scales")


@dataclass(frozen=True)
class Int4:
    """A 4-bit matrix: ``levels`` uint8 (N, K), ``zeros`` uint8 (N, K/g), ``scales`` (N, K/g)."""

    levels: Tensor
    zeros: Tensor
    scales: Tensor

    @property
    def group_size(self) -> int:
        return int(self.levels.shape[1] // self.scales.shape[1])

    def dequantized(self) -> Tensor:
        """The float32 matrix (N, K) that the levels stand for: (q - z) * s."""
        grouped = self.levels.unflatten(1, (-1, self.group_size))
        return ((grouped.float() - self.zeros[..., None].float()) * self.scales[..., None].float()).flatten(1)


def config_entry(group_size: int) -> dict[str, Any]:
    """What stands under ``quantization_config`` in config.json."""
    return {"quant_method": "awq", "bits": BITS, "group_size": group_size, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": None}


def _pack(levels: Tensor) -> Tensor:
    """(rows, N) of 0..15 to int32 words (rows, N/8)."""
    nibbles = levels.unflatten(1, (-1, 8))[..., ORDER].to(torch.int64)
    words = (nibbles << torch.arange(0, 32, BITS, device=levels.device)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _unpack(words: Tensor) -> Tensor:
    """int32 words (rows, N/8) to uint8 (rows, N) of 0..15."""
    nibbles = (words[..., None] >> torch.arange(0, 32, BITS, dtype=torch.int32, device=words.device)) & 15
    columns = torch.empty_like(nibbles, dtype=torch.uint8)
    columns[..., ORDER] = nibbles.to(torch.uint8)
    return columns.flatten(1)


def pack(matrix: Int4) -> dict[str, Tensor]:
    """The three tensors of the layout."""
    return {"qweight": _pack(matrix.levels.T).contiguous(), "qzeros": _pack(matrix.zeros.T).contiguous(),
            "scales": matrix.scales.T.to(torch.float16).contiguous()}


def unpack(tensors: dict[str, Tensor]) -> Int4:
    """The matrix that the three tensors hold.

    Raises:
        ValueError: their shapes or dtypes do not fit one another.
    """
    qweight, qzeros, scales = (tensors[suffix] for suffix in SUFFIXES)
    inputs, outputs, groups = qweight.shape[0], 8 * qweight.shape[1], scales.shape[0]
    if (qweight.dtype, qzeros.dtype) != (torch.int32, torch.int32) or groups == 0 or inputs % groups \
            or scales.shape != (groups, outputs) or qzeros.shape != (groups, outputs // 8):
        raise ValueError(f"qweight {qweight.dtype} {tuple(qweight.shape)}, qzeros {qzeros.dtype} {tuple(qzeros.shape)}, "
                         f"scales {tuple(scales.shape)} do not fit one another as AWQ GEMM tensors")
    return Int4(_unpack(qweight).T.contiguous(), _unpack(qzeros).T.contiguous(), scales.T.contiguous())
