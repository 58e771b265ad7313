"""bitsandbytes' linear layers: made from 16-bit weights, and read back from folders as transformers writes them.

A 4-bit layer's tensors are ``weight`` (two codes a byte), ``weight.absmax``, ``weight.quant_map``, with double quantisation
``weight.nested_absmax`` and ``weight.nested_quant_map``, and ``weight.quant_state.bitsandbytes__nf4`` (or ``fp4``); an 8-bit
layer's are ``weight`` int8, ``SCB`` (a scale an output) and ``weight_format``.
"""

import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models import skeleton

Kind = Literal["nf4", "fp4", "int8"]
OUTLIER = 6.0
"""LLM.int8() (Dettmers et al. 2022) keeps activations above this in 16 bits."""
_STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4",
          "quant_state.bitsandbytes__fp4")
BLOCK = 64
"""Weights that share a scale in 4 bits."""
_SCALES, _FORMAT = "SCB", "weight_format"


def check_bitsandbytes(what: str) -> None:
    """
    Raises:
        UserError: bitsandbytes is not installed; ``what`` needs it.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{what} needs bitsandbytes, which is not installed; bring it with pip install "
                        "'biomistral[bitsandbytes]'")


def linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The layers that bitsandbytes replaces, with their names: every linear one but the output head."""
    head = model.get_output_embeddings()
    return ((name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head)


def check_blocks(what: str, kind: Kind, inputs: int, device: torch.device | str) -> None:
    """
    Raises:
        UserError: the layer ``what`` is one that bitsandbytes 0.50.2 gets wrong on a CPU: where a block reaches over the end
            of a row, its weights are read with the scales of others (a fifth off for 48 inputs).
    """
    if kind != "int8" and inputs % BLOCK and torch.device(device).type == "cpu":
        raise UserError(f"{what} has {inputs} inputs, no multiple of {BLOCK}, which bitsandbytes computes wrongly in 4 bits on a "
                        "CPU; use int8 or another method")


def make_layer(shape: tuple[int, int], bias: Tensor | None, kind: Kind, dtype: torch.dtype, double: bool = True) -> Any:
    """An empty layer of ``shape`` (outputs, inputs) that computes in ``dtype``; its weight is still to be given."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every product that int8 rounds its inputs
    import bitsandbytes.nn as bnb

    outputs, inputs = shape
    layer: Any
    if kind == "int8":
        layer = bnb.Linear8bitLt(inputs, outputs, bias is not None, has_fp16_weights=False, threshold=OUTLIER, device="meta")
    else:
        layer = bnb.Linear4bit(inputs, outputs, bias is not None, dtype, double, kind, device="meta")
        # bitsandbytes' kernel of a CPU: a row in 29 ms instead of 65 (SmolLM2-135M); it rounds the scales to bfloat16
        layer.support_avx512bf16_for_cpu &= dtype == torch.bfloat16 and not outputs % 32 and not inputs % BLOCK
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def quantized_tensors(weight: Tensor, kind: Kind, double: bool, device: torch.device) -> dict[str, Tensor]:
    """What is stored of a weight (outputs, inputs) once bitsandbytes has rounded it, by name behind the layer's, on the CPU."""
    import bitsandbytes.nn as bnb

    layer = make_layer(tuple(weight.shape), None, kind, weight.dtype, double)
    if kind == "int8":
        layer.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer.weight = bnb.Params4bit(weight, requires_grad=False, compress_statistics=double, quant_type=kind, module=layer)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in layer.to(device).state_dict().items()}


def config_entry(kind: Kind, double: bool, dtype: torch.dtype) -> dict[str, Any]:
    """What stands under ``quantization_config`` in config.json, as transformers writes it."""
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        entry = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER)
    else:
        entry = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double,
                                   bnb_4bit_compute_dtype=dtype)
    found: dict[str, Any] = json.loads(json.dumps(entry.to_dict()))  # its enumerations as the words they stand for
    return found


def load_bitsandbytes(folder: Path, files: list[Path], entry: dict[str, Any], dtype: torch.dtype | None,
                      device: torch.device | str) -> PreTrainedModel:
    """Load a model that bitsandbytes has rounded; ``entry`` is its ``quantization_config``, ``dtype`` None means as stored.

    Raises:
        UserError: bitsandbytes is missing, the layout is another one, or tensors are missing, superfluous or do not fit.
    """
    check_bitsandbytes(str(folder))
    kind, weights = _kind(folder, entry), skeleton.Weights(files)
    if dtype is None:
        stored = [weights.dtype(name) for name in weights.place if name.endswith(("norm.weight", "embed_tokens.weight"))]
        dtype = next(iter(stored), torch.bfloat16)
    model = skeleton.build(folder, dtype)
    left = set(weights.place)
    for name, linear in list(linears(model)):
        if _marker(name, kind) in weights.place:
            check_blocks(f"{folder}: '{name}'", kind, linear.in_features, device)
            left -= _replace(model, name, linear, weights, folder, kind, dtype)
    _fill_rest(model, left, weights, folder, dtype)
    setattr(model, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)  # peft asks for these
    return model.to(device)


def _kind(folder: Path, entry: dict[str, Any]) -> Kind:
    place = f"{folder / 'config.json'}: quantization_config"
    if entry.get("load_in_8bit"):
        return "int8"
    kind, storage = entry.get("bnb_4bit_quant_type", "fp4"), entry.get("bnb_4bit_quant_storage", "uint8")
    if not entry.get("load_in_4bit") or kind not in ("nf4", "fp4"):
        raise UserError(f"{place}: neither load_in_8bit nor load_in_4bit with nf4 or fp4; this bitsandbytes form cannot be read")
    if storage != "uint8":
        raise UserError(f"{place}.bnb_4bit_quant_storage is {storage!r}; only 'uint8' can be read")
    return kind  # type: ignore[no-any-return]


def _marker(name: str, kind: Kind) -> str:
    """The tensor that a layer has only where it is quantised."""
    return f"{name}.{_SCALES}" if kind == "int8" else f"{name}.weight.absmax"


def _replace(model: PreTrainedModel, name: str, linear: nn.Linear, weights: skeleton.Weights, folder: Path, kind: Kind,
             dtype: torch.dtype) -> set[str]:
    """Put bitsandbytes' layer where the linear layer ``name`` is; returns the names of the tensors used."""
    wanted = [_SCALES, _FORMAT] if kind == "int8" else [f"weight.{part}" for part in _STATE]
    used = [tensor for tensor in (f"{name}.{part}" for part in ("weight", "bias", *wanted)) if tensor in weights.place]
    tensors = {tensor.removeprefix(f"{name}."): value for tensor, value in weights.read(used).items()}
    bias = tensors.pop("bias").to(dtype) if "bias" in tensors else None
    shape = (linear.out_features, linear.in_features)
    if "weight" not in tensors:
        raise UserError(f"{folder}: '{name}.weight' is missing; the model is incomplete, download or make it again")
    layer = make_layer(shape, bias, kind, dtype)
    try:
        layer.weight = _int8(tensors, shape) if kind == "int8" else _four_bits(layer, tensors, shape)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder}: '{name}.weight': not what bitsandbytes stores of a {shape} layer ({error}); make the model "
                        "again") from error
    model.set_submodule(name, layer)
    return set(used)


def _int8(tensors: dict[str, Tensor], shape: tuple[int, int]) -> Any:
    import bitsandbytes.nn as bnb

    weight, scales = tensors["weight"], tensors[_SCALES]
    if weight.dtype != torch.int8 or tuple(weight.shape) != shape or tuple(scales.shape) != shape[:1]:
        raise ValueError(f"weight {weight.dtype} {tuple(weight.shape)}, SCB {tuple(scales.shape)}")
    return bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scales.float())


def _four_bits(layer: Any, tensors: dict[str, Tensor], shape: tuple[int, int]) -> Any:
    import bitsandbytes.nn as bnb

    weight = tensors.pop("weight")
    if weight.dtype != torch.uint8 or weight.numel() != (shape[0] * shape[1] + 1) // 2:
        raise ValueError(f"weight {weight.dtype} {tuple(weight.shape)}")
    found = bnb.Params4bit.from_prequantized(weight, tensors, device="cpu", module=layer)
    if tuple(found.quant_state.shape) != shape:
        raise ValueError(f"its state says {tuple(found.quant_state.shape)}")
    return found


def _fill_rest(model: PreTrainedModel, names: set[str], weights: skeleton.Weights, folder: Path, dtype: torch.dtype) -> None:
    """Load what is not quantised; every parameter must come from the files, or be tied to one that does."""
    known = names & set(model.state_dict())
    skeleton.fill(model, weights.read(sorted(known)), dtype, strict=False)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")
    if superfluous := sorted(name for name in names - known if not name.endswith("rotary_emb.inv_freq")):
        raise UserError(f"{folder}: tensor '{superfluous[0]}' belongs to no part of its architecture")


def num_halved(model: nn.Module) -> int:
    """Weights that 4-bit layers hold two to a byte, less the bytes, which `nn.Module.parameters` does count."""
    return sum(layer.in_features * layer.out_features - layer.weight.numel() for layer in model.modules()
               if type(layer).__name__ == "Linear4bit")
