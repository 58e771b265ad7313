"""Frozen weights in 4 or 8 bits under an adapter (QLoRA, Dettmers et al. 2023), through bitsandbytes."""

import importlib.util
import logging
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models.stored import StoredWeights, read_whole
from biomistral.training.settings import QloraSettings

OUTLIER = 6.0
"""LLM.int8() (Dettmers et al. 2022) keeps activations above this in 16 bits."""


def check_bitsandbytes() -> None:
    """Refuse QLoRA where it cannot run.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("method: qlora needs bitsandbytes, which is not installed; bring it with pip install "
                        "'biomistral[bitsandbytes]', or use method: lora")


def _decoder_linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear layer but the output head, which the loss reads as it is, with its name."""
    head = model.get_output_embeddings()
    return ((name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head)


def quantise(model: PreTrainedModel, stored: StoredWeights | None, settings: QloraSettings, compute_dtype: torch.dtype,
             device: torch.device) -> None:
    """Replace the decoder's linear layers, in place and one at a time, by quantised ones on ``device``.

    Each weight is read when its turn comes and gone when the next one's does: beside what is quantised there is one matrix.
    Weights are rounded to ``compute_dtype`` first, so that what bitsandbytes gives back has the precision computed in.
    """
    import bitsandbytes.nn as bnb

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every product that int8 rounds its inputs
    for name, layer in list(_decoder_linears(model)):
        bias, weight = layer.bias is not None, read_whole(stored, f"{name}.weight", layer.weight).to(compute_dtype)
        quantised: Any
        if settings.storage == "nf4":
            quantised = bnb.Linear4bit(layer.in_features, layer.out_features, bias, compute_dtype, device="meta")
            quantised.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4", module=quantised,
                                              compress_statistics=settings.double_quantization)
            quantised.support_avx512bf16_for_cpu = False  # evaluation would repack the weights, and training read them so
        else:
            quantised = bnb.Linear8bitLt(layer.in_features, layer.out_features, bias, has_fp16_weights=False,
                                         threshold=OUTLIER, device="meta")
            quantised.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        if bias:
            values = read_whole(stored, f"{name}.bias", layer.bias).to(compute_dtype, copy=True)
            quantised.bias = nn.Parameter(values, requires_grad=False)
        model.set_submodule(name, quantised.to(device))
    setattr(model, "is_loaded_in_4bit" if settings.storage == "nf4" else "is_loaded_in_8bit", True)  # peft asks for these


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The quantised layers of a model, by the name they have in the model without an adapter."""
    import bitsandbytes.nn as bnb

    for name, layer in model.named_modules():
        if isinstance(layer, (bnb.Linear4bit, bnb.Linear8bitLt)):
            yield name.removesuffix(".base_layer"), layer


def dequantised(layer: Any) -> Tensor:
    """The weight that a quantised layer computes with: (out_features, in_features), float32, on the CPU."""
    import bitsandbytes as bnb

    if isinstance(layer, bnb.nn.Linear4bit):
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        scale = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        weight = bnb.functional.int8_vectorwise_dequant(layer.weight.data, scale.to(layer.weight.device))
    result: Tensor = weight.float().cpu()
    return result


def give_dequantised(base: PreTrainedModel, trained: PreTrainedModel) -> None:
    """Put into ``base`` the weights that ``trained`` computed with."""
    for name, layer in quantised_layers(trained):
        base.get_submodule(name).weight.data.copy_(dequantised(layer))


def describe(settings: QloraSettings, model: PreTrainedModel) -> dict[str, Any]:
    """What the manifest says of the frozen weights: how they are stored, by what, and their bytes with the scales."""
    layers = [layer for _, layer in quantised_layers(model)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    size = sum(sum(tensor.nbytes for tensor in _stored(layer)) for layer in layers)
    return {"storage": settings.storage, "double_quantization": settings.storage == "nf4" and settings.double_quantization,
            "bitsandbytes": metadata.version("bitsandbytes"), "weights": weights, "bytes": size,
            "bits_per_weight": 8 * size / weights}


def _stored(layer: Any) -> Iterator[Tensor]:
    yield layer.weight.data
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        yield layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        return
    yield state.absmax
    if state.nested:
        yield state.state2.absmax
