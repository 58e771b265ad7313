"""Load a model whose linear layers are in integers: no layer's 16-bit weights ever exist."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.quantized.dequantise import Scratch
from biomistral.models.quantized.layouts import Layout, layout_of
from biomistral.models.quantized.linear import IntLinear


def load_quantized(folder: Path, files: list[Path], entry: dict[str, Any], dtype: torch.dtype | None,
                   device: torch.device | str) -> PreTrainedModel:
    """Load a model; ``entry`` is its ``quantization_config``, ``dtype`` None means as stored.

    Raises:
        UserError: another layout than those that can be read, or tensors missing, superfluous or of a wrong shape.
    """
    layout = layout_of(folder, entry)
    weights = skeleton.Weights(files)
    names = layout.layers(weights.place)
    if not names:
        raise UserError(f"{folder}: config.json says {entry['quant_method']}, but no tensor ends in '.{layout.suffixes[0]}'; the "
                        "model is incomplete, download or make it again")
    dtype = dtype or _stored(weights)
    model = skeleton.build(folder, dtype)
    left, scratch = set(weights.place), Scratch()
    for name in names:
        used, layer = _read_layer(model, name, layout, weights, folder, dtype, scratch)
        model.set_submodule(name, layer.to(device))
        left -= used
    _fill_rest(model, left, weights, folder, dtype)
    return model.to(device)


def _stored(weights: skeleton.Weights) -> torch.dtype:
    """The precision of what is not quantised."""
    kept = (weights.dtype(name) for name in weights.place if name.endswith(("norm.weight", "embed_tokens.weight")))
    return next(kept, torch.float16)


def _read_layer(model: PreTrainedModel, name: str, layout: Layout, weights: skeleton.Weights, folder: Path, dtype: torch.dtype,
                scratch: Scratch) -> tuple[set[str], IntLinear]:
    """The layer that stands for the linear one ``name``, and the names of the tensors used."""
    needed = [f"{name}.{suffix}" for suffix in layout.suffixes]
    missing = [tensor for tensor in needed if tensor not in weights.place]
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")
    try:
        linear = model.get_submodule(name)
    except AttributeError as error:
        raise UserError(f"{folder}: holds '{needed[0]}', but its architecture has no layer '{name}'") from error
    used = [tensor for tensor in (*needed, *(f"{name}.{suffix}" for suffix in (*layout.optional, "bias")))
            if tensor in weights.place]
    tensors = {tensor.rpartition(".")[2]: value for tensor, value in weights.read(used).items()}
    bias = tensors.pop("bias", None)
    try:
        matrix = layout.unpack(tensors)
    except ValueError as error:
        raise UserError(f"{folder}: '{name}': {error}") from error
    if not isinstance(linear, nn.Linear) or tuple(matrix.levels.shape) != (linear.out_features, linear.in_features):
        raise UserError(f"{folder}: '{needed[0]}' holds a {tuple(matrix.levels.shape)} matrix, the architecture expects {linear}")
    return set(used), IntLinear(matrix, None if bias is None else bias.to(dtype), scratch)


def _fill_rest(model: PreTrainedModel, names: set[str], weights: skeleton.Weights, folder: Path, dtype: torch.dtype) -> None:
    """Load what is not quantised; every parameter must come from the files, or be tied to one that does."""
    skeleton.fill(model, weights.read(sorted(names & set(model.state_dict()))), dtype, strict=False)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")
    superfluous = sorted(name for name in names - set(model.state_dict()) if not name.endswith("rotary_emb.inv_freq"))
    if superfluous:
        raise UserError(f"{folder}: tensor '{superfluous[0]}' belongs to no part of its architecture")
