"""Everything that is checked before the first layer: what the model is, how it is read, and that it can be quantised."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models.folder import read_config
from biomistral.models.quantized.layouts import check_writable
from biomistral.models.stored import StoredWeights, open_model
from biomistral.quantization.calibrated.activations import first_hidden
from biomistral.quantization.calibrated.dataflow import Group, Probe, linears, random_weights
from biomistral.quantization.calibrated.groups import Scheme
from biomistral.quantization.calibrated.layer import Steps
from biomistral.quantization.calibrated.mappings import check_structure, prove
from biomistral.quantization.settings import QuantizeSettings

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32)
_PROBE_TOKENS = 16
_Signature = tuple[tuple[str, torch.Size], ...]


@dataclass
class Plan:
    """The model without its weights, where they are, and what is to be done with them."""

    folder: Path
    config: dict[str, Any]
    model: PreTrainedModel
    stored_weights: StoredWeights
    scheme: Scheme
    steps: Steps
    device: torch.device
    compute: torch.dtype
    """bfloat16 if the weights are bfloat16, else float32: float16 is 20 times slower than float32 on a CPU."""
    stored: torch.dtype
    """Of what is not quantised: float16 stays, all else becomes bfloat16."""
    list_name: str
    """Of the decoder's layers in the base model: ``layers`` nearly everywhere."""
    groups: dict[_Signature, list[Group]] = field(default_factory=dict)
    """By kind of decoder layer, once `find_groups` has looked."""

    @property
    def decoder(self) -> nn.Module:
        return self.model.base_model

    @property
    def layers(self) -> nn.ModuleList:
        return getattr(self.decoder, self.list_name)  # type: ignore[no-any-return]

    @property
    def family(self) -> str:
        return str(self.config.get("model_type"))

    def layer_name(self, index: int) -> str:
        return f"{self.model.base_model_prefix}.{self.list_name}.{index}"

    def read_layer(self, index: int) -> dict[str, Tensor]:
        """A decoder layer's tensors, named relative to it.

        Raises:
            UserError: one holds NaN or infinity.
        """
        prefix = self.layer_name(index)
        return self._read((f"{prefix}.{name}", name) for name in self.layers[index].state_dict())

    def read_rest(self) -> dict[str, Tensor]:
        """The tensors outside the decoder layers; tied embeddings once.

        Raises:
            UserError: one holds NaN or infinity.
        """
        inside = f"{self.model.base_model_prefix}.{self.list_name}."
        return self._read((name, name) for name, _ in self.model.named_parameters() if not name.startswith(inside))

    def _read(self, names: Iterator[tuple[str, str]]) -> dict[str, Tensor]:
        found = {}
        for name, short in names:
            found[short] = self.stored_weights.read(name)
            check_finite(self.folder, name, found[short])
        return found

    def groups_of(self, index: int) -> list[Group]:
        return self.groups[_signature(self.layers[index])]

    def find_groups(self, sequence: Tensor) -> None:
        """Find what feeds the linear layers of every kind of decoder layer, and prove that scales can move.

        What stands around the layers must have its weights; ``sequence`` (T,) is run through it.

        Raises:
            UserError: an architecture whose dataflow cannot be followed, or where the proof fails.
        """
        tokens = sequence[None, :_PROBE_TOKENS].to(self.device)
        hidden, calls = first_hidden(self.decoder, self.list_name, tokens)
        noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(self.device)
        for layer, call in zip(self.layers, calls, strict=True):
            if _signature(layer) in self.groups:
                continue
            weights = {name: tensor.to(self.device) for name, tensor in random_weights(layer).items()}
            layer.load_state_dict(weights, assign=True)
            layer.requires_grad_(False)
            probe = Probe(layer, call, noise, self._widths())
            try:
                groups = probe.groups(mapped=self.steps.scale)
            except ValueError as error:
                raise UserError(f"architecture '{self.family}' cannot be quantised: {error}; only --method rtn can") from error
            if self.steps.scale:
                prove(probe, groups, self.family)
            self.groups[_signature(layer)] = groups
            layer.to("meta")

    def _widths(self) -> list[int]:
        heads = getattr(self.model.config, "num_key_value_heads", None) or self.model.config.num_attention_heads
        width = getattr(self.model.config, "head_dim", None) or (
            self.model.config.hidden_size // self.model.config.num_attention_heads)
        return [heads * width]

    def bytes_written(self) -> int:
        """Of the quantised model: integers, scales and zero points, and 16 bits for every other parameter."""
        quantized: int = sum(linear.weight.numel() for layer in self.layers for linear in linears(layer).values())
        rest: int = sum(parameter.numel() for parameter in self.model.parameters()) - quantized
        bits = max(4, self.scheme.bits)
        return int(quantized * (bits + (16 + bits) / self.scheme.group_size) / 8) + 2 * rest


_AT_ONCE = 1 << 20  # elements whose finiteness is looked at: of a whole embedding that would take twice its bytes


def _signature(layer: nn.Module) -> _Signature:
    return tuple((name, parameter.shape) for name, parameter in layer.named_parameters())


def check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    """
    Raises:
        UserError: the tensor holds NaN or infinity.
    """
    parts = tensor.flatten().split(_AT_ONCE) if tensor.is_floating_point() else ()
    if not all(bool(part.isfinite().all()) for part in parts):
        raise UserError(f"{folder}: '{name}' holds NaN or infinite values; the model is damaged, make it again")


def make_plan(folder: Path, settings: QuantizeSettings, device: torch.device) -> Plan:
    """Check the model against the settings.

    Raises:
        UserError: not a model folder, already quantised, incomplete, of an architecture that cannot be taken layer by layer,
            of another precision than 16 or 32 bit, or with a layer that the group size or the layout does not fit.
    """
    config = read_config(folder)
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown method")
        raise UserError(f"{folder / 'config.json'}: already quantised ({method}); quantise its 16-bit original")
    model, stored_weights = open_model(folder, torch.float32)
    family = str(config.get("model_type"))
    list_name = _layer_list(model, family)
    if stored_weights is None:
        raise UserError(f"architecture '{family}' cannot be quantised: its weights are converted as they are loaded, so that no "
                        "layer can be read by itself")
    layers = getattr(model.base_model, list_name)
    for layer in layers:
        check_structure(layer, family)
    first = f"{model.base_model_prefix}.{list_name}.0.{next(iter(linears(layers[0])))}.weight"
    precision = stored_weights.read_rows(first, 0, 0).dtype
    if precision not in PRECISIONS:
        raise UserError(f"{folder}: weights in {precision}; import the model in 16 bit first ('biomistral import')")
    _check_groups(layers, settings)
    if settings.sequence_length > model.config.max_position_embeddings:
        raise UserError(f"sequence_length {settings.sequence_length} is longer than the model's "
                        f"{model.config.max_position_embeddings} positions; lower it")
    compute = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
    stored = torch.float16 if precision == torch.float16 else torch.bfloat16
    scheme = Scheme(settings.group_size, settings.bits, settings.symmetric)
    for module in model.modules():  # parameters have no values yet
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return Plan(folder, config, model, stored_weights, scheme, steps_of(settings), device, compute, stored, list_name)


def steps_of(settings: QuantizeSettings) -> Steps:
    """What the method of the settings does."""
    scale = settings.method.startswith("awq")
    return Steps(scale, scale and settings.clip, settings.method.endswith("gptq"), settings.act_order)


def check_disk(plan: Plan, folder: Path) -> None:
    """Whether the result fits; what an earlier, interrupted run already wrote counts as there.

    Raises:
        UserError: it does not.
    """
    written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    needed, free = plan.bytes_written() - written, shutil.disk_usage(there).free
    if needed > free:
        raise UserError(f"{folder.parent}: the quantised model needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free on "
                        "this disk; free some or choose another --out")


def _layer_list(model: PreTrainedModel, family: str) -> str:
    depth = model.config.num_hidden_layers
    children: dict[str, nn.Module] = dict(model.base_model.named_children())
    found = [name for name, child in children.items() if isinstance(child, nn.ModuleList) and len(child) == depth]
    if len(found) != 1 or depth == 0:
        raise UserError(f"architecture '{family}' cannot be quantised: it has no list of {depth} decoder layers")
    return found[0]


def _check_groups(layers: nn.ModuleList, settings: QuantizeSettings) -> None:
    for layer in layers:
        for name, linear in linears(layer).items():
            if linear.in_features % settings.group_size:
                fitting = [str(size) for size in (128, 64, 32) if linear.in_features % size == 0]
                hint = f"use {' or '.join(fitting)}" if fitting else "none of 128, 64, 32 does; this model cannot be quantised"
                raise UserError(f"group_size {settings.group_size} does not divide the {linear.in_features} inputs of '{name}'; "
                                f"{hint}")
            check_writable(settings.layout, name, linear.out_features, max(4, settings.bits))
