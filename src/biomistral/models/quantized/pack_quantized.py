"""The layout ``pack-quantized`` of compressed-tensors, which vLLM reads natively: a linear layer in 4 or 8 bits, to the bit.

For K inputs, N outputs and groups of g inputs: ``weight_packed`` int32 (N, ceil(K * bits / 32)), natural order along K;
``weight_scale`` (N, K/g); ``weight_shape`` int64 (2,): N, K; and, unless the layer is symmetric, ``weight_zero_point`` int32
(ceil(N * bits / 32), K/g), natural order along N. Integers are stored as q = signed + 2^(bits - 1), zero points too, so that
w = (q - z) * s with z = 2^(bits - 1) where none are stored.
"""

from typing import Any

import torch
from torch import Tensor

from biomistral.models.quantized.matrix import IntMatrix
from biomistral.models.quantized.words import WORD_BITS, pack_words, unpack_words

SUFFIXES = ("weight_packed", "weight_scale", "weight_shape")
ZEROS = "weight_zero_point"
BITS = (4, 8)


def config_entry(group_size: int, symmetric: bool, bits: int = 4, ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
    """What stands under ``quantization_config`` in config.json; ``ignore`` names the linear layers left in 16 bits."""
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group_size,
               "dynamic": False, "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {}}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None,
             "format": "pack-quantized"}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": list(ignore), "kv_cache_scheme": None,
            "global_compression_ratio": None}


def pack(matrix: IntMatrix, symmetric: bool) -> dict[str, Tensor]:
    """The layer's tensors; ``symmetric`` leaves the zero points out, which then all have to be the middle."""
    assert matrix.symmetric or not symmetric, "zero points that differ have to be stored"
    tensors = {"weight_packed": pack_words(matrix.levels, matrix.bits), "weight_scale": matrix.scales.contiguous(),
               "weight_shape": torch.tensor(matrix.levels.shape)}
    if not symmetric:
        tensors[ZEROS] = pack_words(matrix.zeros.T, matrix.bits).T.contiguous()
    return tensors


def unpack(tensors: dict[str, Tensor]) -> IntMatrix:
    """The matrix that the tensors hold; bits and group size are seen from their shapes (of more than 4 inputs).

    Raises:
        ValueError: their shapes or dtypes do not fit one another.
    """
    packed, scales, shape = (tensors[suffix] for suffix in SUFFIXES)
    outputs, inputs = map(int, shape.tolist()) if shape.numel() == 2 else (0, 0)
    fitting = [bits for bits in BITS if packed.shape == (outputs, -(-inputs * bits // WORD_BITS))]
    if packed.dtype != torch.int32 or not fitting or scales.ndim != 2 or scales.shape[0] != outputs or scales.shape[1] == 0 \
            or inputs % scales.shape[1]:
        raise ValueError(_misfit(tensors))
    bits = fitting[0]
    levels = unpack_words(packed, bits)[:, :inputs]
    # copies, so that nothing of a file stays mapped: its pages would count as this process's memory
    return IntMatrix(levels.clone(memory_format=torch.contiguous_format), _zeros(tensors, scales, bits), scales.clone(), bits)


def _zeros(tensors: dict[str, Tensor], scales: Tensor, bits: int) -> Tensor:
    """Zero points (N, K/g): the middle where none are stored, and signed bytes as older versions of the library write them."""
    stored, middle = tensors.get(ZEROS), 1 << bits - 1
    if stored is None:
        return torch.full(scales.shape, middle, dtype=torch.uint8)
    if stored.dtype == torch.int8 and stored.shape == scales.shape:
        return (stored.to(torch.int16) + middle).to(torch.uint8)
    if stored.dtype != torch.int32 or stored.shape != (-(-scales.shape[0] * bits // WORD_BITS), scales.shape[1]):
        raise ValueError(_misfit(tensors))
    return unpack_words(stored.T, bits)[:, :scales.shape[0]].T.contiguous()


def _misfit(tensors: dict[str, Tensor]) -> str:
    found = ", ".join(f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
                      for name, tensor in sorted(tensors.items()) if name.startswith("weight_"))
    return f"{found} do not fit one another as pack-quantized tensors"
