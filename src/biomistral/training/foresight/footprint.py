"""The memory a training needs, foreseen from config.json alone: nothing is loaded, the model is built without storage."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from biomistral.models.skeleton import Unbuildable, build
from biomistral.training.foresight.rehearsal import activation_bytes
from biomistral.training.settings import LoraSettings, QloraSettings, TrainingSettings
from biomistral.training.weights.lora import add_adapter

_EIGHT_BIT_STATE = 1 + 4 / 256  # bytes of a moment: a code, and its share of a block's float32 scale
_LOOSE = {"cpu": 1.25, "cuda": 1.1}
_LOOSE_ADAPTER = {"none": 1.1, "selective": 2.0, "full": 2.0}
"""What an allocator holds for each byte of activations in use: freed pieces do not fit the next request. With an adapter's many
passing tensors between those that are kept, a CPU's heap is left in smaller pieces. Measured (`perf/memory_plan.py`)."""

_LIBRARIES = {"cpu": 300e6, "cuda": 0}  # a CPU's kernels and their scratch, once they have run; a GPU's are outside its allocator


class UnforeseeableError(Exception):
    """The memory of this architecture is not known before it runs."""


@dataclass(frozen=True)
class Footprint:
    """Bytes in each process: weights as computed with, float32 masters, gradients, moments, activations; and the host's.

    The ``ending`` is what merging an adapter takes on the host once training is done, the base in float32; ``copied`` what an
    asynchronous checkpoint holds there while training goes on: masters and moments.
    """

    weights: int
    masters: int
    gradients: int
    moments: int
    activations: int
    ending: int = 0
    copied: int = 0

    @property
    def training(self) -> int:
        """Bytes at the peak of a training step, on the device that computes."""
        return self.weights + self.masters + self.gradients + self.moments + self.activations

    def needed_on(self, device: str, computing: str) -> int:
        """Most bytes on ``device`` (``cpu`` or ``cuda``) of a training that computes on ``computing``."""
        if device != computing:
            return max(self.ending, self.copied)
        if device == "cuda":
            return self.training
        return max(self.training + self.copied, self.training - self.activations + self.ending)


def micro_batch_tokens(settings: TrainingSettings, sequence_length: int, processes: int = 1) -> int:
    """Tokens of the largest forward pass: whole sequences within the limit, at least one, at most this process's share."""
    share = -(-settings.batch_sequences // processes)
    return min(max(1, settings.micro_batch_tokens // sequence_length), share) * sequence_length


def _linears(model: PreTrainedModel) -> list[nn.Linear]:
    """The decoder's linear layers: those that ``method: qlora`` quantises."""
    inside = model.get_decoder().named_modules()
    return [layer for _, layer in inside if isinstance(layer, nn.Linear)]


def _quantised_bytes(layer: nn.Linear, settings: QloraSettings) -> float:
    """A layer in bitsandbytes' form: codes, and the scales of blocks of 64 (themselves in 8 bits, blocks of 256) or rows."""
    size = int(layer.weight.numel())
    if settings.storage == "int8":
        return size + 4 * int(layer.out_features)
    return size * (0.5 + (1 / 64 + 4 / (64 * 256) if settings.double_quantization else 4 / 64))


def _largest_part(model: PreTrainedModel) -> int:
    """Parameters that FSDP gathers at once: two layers (one is fetched ahead), and what stands outside them."""
    layers = [sum(parameter.numel() for parameter in layer.parameters()) for layer in model.get_decoder().layers]
    return int(2 * max(layers) + sum(parameter.numel() for parameter in model.parameters()) - sum(layers))


def skeleton(folder: Path, settings: TrainingSettings) -> PreTrainedModel:
    """The model in ``folder`` without storage, in the precision computed in.

    Raises:
        UserError: the model cannot be built; see `models.skeleton.build`.
        UnforeseeableError: only a full load builds it.
    """
    try:
        model = build(folder, getattr(torch, settings.compute_dtype))
    except Unbuildable as error:
        raise UnforeseeableError(str(error)) from error
    if not len(getattr(model.get_decoder(), "layers", ())):
        raise UnforeseeableError(f"{type(model).__name__} has no list of layers")
    return model


def _first_layers(model: PreTrainedModel, shape: LoraSettings | None) -> Callable[[int], PreTrainedModel]:
    """How to copy the first layers of a model without storage, and put an adapter on them."""
    decoder, layers = model.get_decoder(), model.get_decoder().layers

    def make(number: int) -> PreTrainedModel:
        decoder.layers = layers[:number]
        copied = copy.deepcopy(model)
        decoder.layers = layers
        if shape is not None:
            add_adapter(copied, shape, 0, "")
        return copied
    return make


def _adapter_size(model: PreTrainedModel, shape: LoraSettings) -> int:
    """Parameters of an adapter on every linear layer of one of the names."""
    layers = [layer for name, layer in model.named_modules()
              if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in shape.targets]
    return sum(shape.rank * (layer.in_features + layer.out_features) for layer in layers)


def footprint(model: PreTrainedModel, settings: TrainingSettings, shape: LoraSettings | None, sequence_length: int, device: str,
              processes: int = 1, parts: int = 1) -> Footprint:
    """What training ``model``, a `skeleton`, takes in each of ``processes`` that hold its weights in ``parts``.

    ``shape`` is the adapter's (None: every weight is trained); ``device`` is ``cpu`` or ``cuda``.

    Raises:
        UserError: the adapter's targets are not in the model.
        UnforeseeableError: the model cannot be rehearsed.
    """
    layers = len(model.get_decoder().layers)
    each = 2 if settings.compute_dtype == "bfloat16" else 4
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = total if shape is None else _adapter_size(model, shape)
    total += 0 if shape is None else trained
    tokens = micro_batch_tokens(settings, sequence_length, processes)
    try:
        held = activation_bytes(_first_layers(model, shape), layers, settings.gradient_checkpointing, tokens,
                                sequence_length, device == "cpu")
    except (NotImplementedError, RuntimeError) as error:  # shapes that depend on values (mixtures of experts)
        raise UnforeseeableError(f"{type(model).__name__}: {str(error).splitlines()[0]}") from error
    loose = _LOOSE[device] if shape is None or device == "cuda" else _LOOSE_ADAPTER[settings.gradient_checkpointing]
    activations = loose * held + _LIBRARIES[device]
    weights = float(total * each)
    qlora = getattr(settings, "qlora", None) if getattr(settings, "method", "full") == "qlora" else None
    if qlora is not None:
        linears = _linears(model)
        weights += sum(_quantised_bytes(layer, qlora) - layer.weight.numel() * each for layer in linears)
        activations += max(layer.weight.numel() for layer in linears) * each  # one is dequantised at a time
    masters = 4 * trained if each == 2 else 0  # in float32 the model computes with its masters
    if parts > 1:
        weights = (total - trained) * each / parts
        masters = 4 * trained // parts
        activations += _largest_part(model) * (each + (4 if shape is None else 0))
    moment = _EIGHT_BIT_STATE if settings.optimizer == "adamw8bit" else 4
    gradients, moments = 4 * trained // parts, int(2 * moment * trained / parts)
    ending = 0 if shape is None else 4 * (total - trained)
    copied = 4 * trained // parts + moments if settings.asynchronous_checkpoints else 0
    return Footprint(int(weights), masters, gradients, moments, int(activations), ending, copied)
