"""AutoAWQ's layouts of a 4-bit linear layer, to the bit: what ``quantization_config.version`` "gemm" and "gemv" mean on disk.

For K inputs, N outputs and groups of g inputs: w = (q - z) * s, scales float16, integers in int32 words of eight. **gemm**:
``qweight`` (K, N/8), ``qzeros`` (K/g, N/8), ``scales`` (K/g, N); nibble i (from the lowest bits) of word c holds column
``8c + (0, 2, 4, 6, 1, 3, 5, 7)[i]``. **gemv**, which is only read here: ``qweight`` (N, K/8), ``qzeros`` (N, w), ``scales``
(N, 8w), natural order along the inputs; w words hold K/g groups, up to a multiple of 1, 2 or 4 words for g of 128, 64 or 32.
"""

from typing import Any

import torch
from torch import Tensor

from biomistral.models.quantized.matrix import IntMatrix
from biomistral.models.quantized.words import pack_words, unpack_words

BITS = 4
SUFFIXES = ("qweight", "qzeros", "scales")


def config_entry(group_size: int) -> dict[str, Any]:
    """What stands under ``quantization_config`` in config.json for the gemm layout."""
    return {"quant_method": "awq", "bits": BITS, "group_size": group_size, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": None}


def pack(matrix: IntMatrix) -> dict[str, Tensor]:
    """The three tensors of the gemm layout; N has to be a multiple of 8."""
    assert (matrix.bits, matrix.levels.shape[0] % 8) == (BITS, 0), "what this layout cannot hold is refused before"
    return {"qweight": _pack(matrix.levels.T), "qzeros": _pack(matrix.zeros.T),
            "scales": matrix.scales.T.to(torch.float16).contiguous()}


def unpack(tensors: dict[str, Tensor]) -> IntMatrix:
    """The matrix that the three tensors of the gemm layout hold.

    Raises:
        ValueError: their shapes or dtypes do not fit one another.
    """
    qweight, qzeros, scales = (tensors[suffix] for suffix in SUFFIXES)
    inputs, outputs, groups = qweight.shape[0], 8 * qweight.shape[-1], scales.shape[0]
    if not _are_words(qweight, qzeros) or groups == 0 or inputs % groups or scales.shape != (groups, outputs) \
            or qzeros.shape != (groups, outputs // 8):
        raise ValueError(_misfit(tensors, "AWQ GEMM"))
    return IntMatrix(_unpack(qweight), _unpack(qzeros), scales.T.contiguous())


def unpack_gemv(tensors: dict[str, Tensor]) -> IntMatrix:
    """The matrix that the three tensors of the gemv layout hold.

    Only the width of the rows of ``qzeros`` tells the group size, and it is rounded up: the groups are those of the largest
    size whose width it is (32, 64 or 128 inputs; AutoAWQ has no others).

    Raises:
        ValueError: their shapes or dtypes do not fit one another.
    """
    qweight, qzeros, scales = (tensors[suffix] for suffix in SUFFIXES)
    outputs, inputs, width = qweight.shape[0], 8 * qweight.shape[-1], qzeros.shape[-1]
    fitting = [size for size in (128, 64, 32) if inputs % size == 0 and _gemv_width(inputs // size, size) == width]
    if not _are_words(qweight, qzeros) or not fitting or qzeros.shape != (outputs, width) or scales.shape != (outputs, 8 * width):
        raise ValueError(_misfit(tensors, "AWQ GEMV"))
    groups = inputs // fitting[0]
    return IntMatrix(unpack_words(qweight, BITS), unpack_words(qzeros, BITS)[:, :groups].contiguous(),
                     scales[:, :groups].contiguous())


def _gemv_width(groups: int, group_size: int) -> int:
    multiple = 128 // group_size
    return -(-groups // (8 * multiple)) * multiple


def _are_words(*tensors: Tensor) -> bool:
    return all(tensor.dtype == torch.int32 and tensor.ndim == 2 for tensor in tensors)


def _misfit(tensors: dict[str, Tensor], layout: str) -> str:
    found = ", ".join(f"{suffix} {str(tensors[suffix].dtype).removeprefix('torch.')} {tuple(tensors[suffix].shape)}"
                      for suffix in SUFFIXES)
    return f"{found} do not fit one another as {layout} tensors"


def _pack(levels: Tensor) -> Tensor:
    """uint8 (rows, N) to words (rows, N/8): of eight columns the even ones first."""
    return pack_words(levels.unflatten(1, (-1, 4, 2)).mT.flatten(1), BITS)


def _unpack(words: Tensor) -> Tensor:
    """Words (rows, N/8) to uint8 (N, rows). Words are transposed, an eighth of the integers, and not the integers."""
    levels = unpack_words(words.T.contiguous()[..., None], BITS)  # (N/8, rows, 8), in the layout's order
    return levels.unflatten(2, (2, 4)).permute(0, 3, 2, 1).reshape(-1, words.shape[0])
