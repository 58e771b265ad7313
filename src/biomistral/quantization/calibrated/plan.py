"""Everything that is checked before the first layer: what the model is, how it is read, and that it can be quantised."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.folder import read_config, weight_files
from biomistral.models.load import quiet
from biomistral.quantization.calibrated.mappings import LINEARS, check_structure
from biomistral.quantization.settings import QuantizeSettings

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass
class Plan:
    """The model without its weights, and where they are."""

    folder: Path
    config: dict[str, Any]
    model: PreTrainedModel
    weights: skeleton.Weights
    group_size: int
    device: torch.device
    compute: torch.dtype
    """bfloat16 if the weights are bfloat16, else float32: float16 is 20 times slower than float32 on a CPU."""
    stored: torch.dtype
    """Of what is not quantised: float16 stays, all else becomes bfloat16."""

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.base_model.layers  # type: ignore[no-any-return]

    @property
    def family(self) -> str:
        return str(self.config.get("model_type"))

    def layer_name(self, index: int) -> str:
        return f"{self.model.base_model_prefix}.layers.{index}"

    def read_layer(self, index: int) -> dict[str, Tensor]:
        """A decoder layer's tensors, named relative to it.

        Raises:
            UserError: one holds NaN or infinity.
        """
        prefix = self.layer_name(index) + "."
        names = [prefix + name for name in self.layers[index].state_dict()]
        tensors = self.weights.read(names)
        check_finite(self.folder, tensors)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    def rest_names(self) -> list[str]:
        """Tensors outside the decoder layers; tied embeddings once."""
        names = {name for name in self.model.state_dict() if not name.startswith(f"{self.model.base_model_prefix}.layers.")}
        return sorted(names & set(self.weights.place) - tied_names(self.model))


def tied_names(model: PreTrainedModel) -> set[str]:
    """The output embedding's name if the input embedding stands for it."""
    if not model.config.tie_word_embeddings:
        return set()
    head = model.get_output_embeddings()
    return {f"{name}.weight" for name, module in model.named_modules() if module is head}


def check_finite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """
    Raises:
        UserError: a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{folder}: '{name}' holds NaN or infinite values; the model is damaged, make it again")


def make_plan(folder: Path, settings: QuantizeSettings, device: torch.device) -> Plan:
    """Check the model against the settings.

    Raises:
        UserError: not a model folder, already quantised, incomplete, of an architecture without the known mappings, of
            another precision than 16 or 32 bit, or with a layer that the group size does not divide.
    """
    config = read_config(folder)
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown method")
        raise UserError(f"{folder / 'config.json'}: already quantised ({method}); quantise its 16-bit original")
    weights = skeleton.Weights(weight_files(folder))
    quiet()
    model = skeleton.build(folder, torch.float32, device)
    _check_parts(folder, model, str(config.get("model_type")))
    _check_names(folder, model, weights)
    precision = weights.dtype(f"{model.base_model_prefix}.layers.0.{LINEARS[0]}.weight")
    if precision not in PRECISIONS:
        raise UserError(f"{folder}: weights in {precision}; import the model in 16 bit first ('biomistral import')")
    _check_groups(model, settings)
    if settings.sequence_length > model.config.max_position_embeddings:
        raise UserError(f"sequence_length {settings.sequence_length} is longer than the model's "
                        f"{model.config.max_position_embeddings} positions; lower it")
    compute = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
    stored = torch.float16 if precision == torch.float16 else torch.bfloat16
    return Plan(folder, config, model, weights, settings.group_size, device, compute, stored)


def _check_parts(folder: Path, model: PreTrainedModel, family: str) -> None:
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0 or not hasattr(model.base_model, "norm"):
        raise UserError(f"architecture '{family}' cannot be quantised: it has no list of decoder layers with a final norm")
    for layer in layers:
        check_structure(layer, family)


def _check_names(folder: Path, model: PreTrainedModel, weights: skeleton.Weights) -> None:
    missing = sorted(set(model.state_dict()) - set(weights.place) - tied_names(model))
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")


def _check_groups(model: PreTrainedModel, settings: QuantizeSettings) -> None:
    for name in LINEARS:
        linear: Any = model.base_model.layers[0].get_submodule(name)
        if linear.in_features % settings.group_size:
            fitting = [str(size) for size in (128, 64, 32) if linear.in_features % size == 0]
            hint = f"use {' or '.join(fitting)}" if fitting else "none of 128, 64, 32 does; this model cannot be quantised"
            raise UserError(f"group_size {settings.group_size} does not divide the {linear.in_features} inputs of '{name}'; "
                            f"{hint}")
        if linear.out_features % 8:
            raise UserError(f"'{name}' has {linear.out_features} outputs; the AWQ layout packs 8 a word")
