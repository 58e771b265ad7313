"""Matrices in integers for the tests, model folders made of them, and unpackers written from the layouts' descriptions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from biomistral.models.quantized.layouts import LayoutName, config_entry, pack
from biomistral.models.quantized.matrix import IntMatrix

Tensors = dict[str, torch.Tensor]


def random_matrix(outputs: int, inputs: int, group: int, seed: int = 0, bits: int = 4, symmetric: bool = False) -> IntMatrix:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 1 << bits, (outputs, inputs), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(0, 1 << bits, (outputs, inputs // group), generator=generator, dtype=torch.uint8)
    if symmetric:
        zeros.fill_(1 << bits - 1)
    scales = (torch.rand(outputs, inputs // group, generator=generator) * 0.02 + 0.001).to(torch.float16)
    return IntMatrix(levels, zeros, scales / (1 << bits - 4), bits)


def naive_weight(tensors: Tensors, group: int) -> np.ndarray:
    """W (N, K) in float64 from AWQ's gemm words, nibble by nibble."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    qweight, qzeros = (tensors[name].numpy().view(np.uint32) for name in ("qweight", "qzeros"))
    scales = tensors["scales"].numpy().astype(np.float64)
    weight = np.zeros((scales.shape[1], qweight.shape[0]))
    for k in range(qweight.shape[0]):
        for word in range(qweight.shape[1]):
            for nibble in range(8):
                n = 8 * word + order[nibble]
                q = int(qweight[k, word]) >> 4 * nibble & 15
                z = int(qzeros[k // group, word]) >> 4 * nibble & 15
                weight[n, k] = (q - z) * scales[k // group, n]
    return weight


def naive_packed_weight(tensors: Tensors, bits: int) -> np.ndarray:
    """W (N, K) in float64 from pack-quantized words, integer by integer: signed values, offset by 2^(bits - 1) when stored."""
    outputs, inputs = tensors["weight_shape"].tolist()
    scales = tensors["weight_scale"].double().numpy()
    packed, per_word, middle = tensors["weight_packed"].numpy().view(np.uint32), 32 // bits, 1 << bits - 1
    zeros = tensors["weight_zero_point"].numpy().view(np.uint32) if "weight_zero_point" in tensors else None
    group, weight = inputs // scales.shape[1], np.zeros((outputs, inputs))
    for n in range(outputs):
        for k in range(inputs):
            signed = (int(packed[n, k // per_word]) >> bits * (k % per_word)) % (1 << bits) - middle
            zero = 0 if zeros is None else (
                (int(zeros[n // per_word, k // group]) >> bits * (n % per_word)) % (1 << bits) - middle)
            weight[n, k] = (signed - zero) * scales[n, k // group]
    return weight


def write_model(source: Path, out: Path, layout: LayoutName = "autoawq", group: int = 32, bits: int = 4,
                symmetric: bool = False, scales: torch.dtype = torch.float16) -> tuple[Path, Path]:
    """A model folder in a layout with random integers for weights, and the plain float32 model that it stands for."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for number, name in enumerate(sorted(name for name in tensors if "_proj.weight" in name)):
        matrix = random_matrix(*tensors[name].shape, group, number, bits, symmetric)
        matrix = IntMatrix(matrix.levels, matrix.zeros, matrix.scales.to(scales), bits)
        model.get_parameter(name).data.copy_(matrix.dequantized())
        del tensors[name]
        tensors |= {f"{name.removesuffix('.weight')}.{suffix}": tensor
                    for suffix, tensor in pack(layout, matrix, symmetric).items()}
    plain, quantized = out / "plain", out / layout
    model.save_pretrained(plain)
    write_folder(source, quantized, tensors, config_entry(layout, group, symmetric, bits))
    return quantized, plain


def write_folder(source: Path, out: Path, tensors: Tensors, entry: dict[str, Any]) -> None:
    """A model folder of these tensors and this ``quantization_config``, the rest as in ``source``."""
    out.mkdir()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": entry}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((source / name).read_bytes())
