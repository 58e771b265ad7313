"""The ``finetune`` stage: train on examples, every weight or a low-rank adapter that is then merged."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace, input_key
from biomistral.models.adapter import check_base
from biomistral.models.folder import read_config
from biomistral.models.load import load_model, load_tokenizer, own_device
from biomistral.models.skeleton import weightless
from biomistral.models.stored import StoredWeights, open_model
from biomistral.training.compute.compiled import check_compiler
from biomistral.training.data.datasets import read_blocks
from biomistral.training.foresight.memory import foresee
from biomistral.training.guard import check_model_folder
from biomistral.training.loop import Training
from biomistral.training.output import give_weights, pass_on_licences, write_model
from biomistral.training.settings import LoraSettings
from biomistral.training.start import train
from biomistral.training.watching.sinks import check_sinks
from biomistral.training.watching.validation import make_validation
from biomistral.training.weights.lora import add_adapter, load_adapter, save_and_merge, shape_of
from biomistral.training.weights.quantized import check_bitsandbytes, describe, give_dequantised, quantise

ADAPTER = "adapter"


def finetune(work: Workspace) -> None:
    """Train on the examples and write a model folder; with ``lora`` and ``qlora`` also the adapter, in ``adapter/``.

    Raises:
        UserError: an example is malformed or too long; the model cannot be trained; an adapter is for another base; QLoRA
            cannot run here; a loss is not finite.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    check_sinks(work.machine.log_to)
    if settings.compile:
        check_compiler()
    check_model_folder(folder, settings.sequence_length)
    shape = _adapter_shape(work, folder)
    foreseen = foresee(work, folder, settings.sequence_length, None if settings.method == "full" else shape)
    tokenizer = load_tokenizer(folder)
    validation = make_validation(work, folder, tokenizer)
    blocks, heldout = read_blocks(work, tokenizer, () if validation is None else (validation.asked,))
    model, stored = _model_to_train(work, folder, shape)
    training = train(work, model, stored, blocks, heldout, settings.sequence_length, foreseen, validation)
    work.counts |= {"examples": blocks.num_examples, "examples_dropped": blocks.dropped, "examples_left_out": blocks.left_out}
    work.facts |= {"method": settings.method, "loss": settings.loss}
    pass_on_licences(work, folder, *(work.locate(name) for name in settings.train))
    if settings.method == "full":
        give_weights(model, training.weights.masters, getattr(torch, settings.output_dtype))
    else:
        model = _merge(work, training, folder, shape)
        give_weights(model, {}, getattr(torch, settings.output_dtype))
    write_model(model, work, folder)
    training.checkpoints.delete()


def _base_name(work: Workspace, folder: Path) -> str:
    """What an adapter calls the model it belongs to: its name on the hub, else its kind and key; never a place."""
    name = str(work.settings.model)
    if name.startswith("hub:"):
        return name.removeprefix("hub:").partition("@")[0]
    return f"{read_config(folder).get('model_type', 'model')}-{input_key(folder)[:16]}"


def _adapter_shape(work: Workspace, folder: Path) -> LoraSettings:
    """The adapter's shape, as set or as that of the adapter to go on from, once it is known that it can be trained."""
    settings = work.settings
    if settings.method == "qlora":
        check_bitsandbytes()
    if settings.adapter is None:
        shape: LoraSettings = settings.lora
        return shape
    check_base(work.locate(settings.adapter), _base_name(work, folder), input_key(folder))
    return shape_of(work.locate(settings.adapter), settings.lora.dropout)


def _model_to_train(work: Workspace, folder: Path, shape: LoraSettings) -> tuple[PreTrainedModel, StoredWeights | None]:
    """The model with its adapter, and where its other weights are still to be read."""
    settings, compute_dtype = work.settings, getattr(torch, work.settings.compute_dtype)
    model, stored = open_model(folder, torch.float32)
    if settings.method == "full":
        return model, stored
    if settings.method == "qlora":
        quantise(model, stored, settings.qlora, compute_dtype, own_device(work.machine.device))
        work.facts["quantized"] = describe(settings.qlora, model)
    with weightless(model):
        add_adapter(model, shape, settings.seed, _base_name(work, folder))
    if settings.adapter is not None:
        load_adapter(model, work.locate(settings.adapter))
    return model, stored


def _merge(work: Workspace, training: Training, folder: Path, shape: LoraSettings) -> PreTrainedModel:
    """Save the adapter and merge it, in float32 whatever the training computed in: into the model's own weights, or into
    the quantised ones it was trained on."""
    settings, name = work.settings, _base_name(work, folder)
    base = load_model(folder, torch.float32)
    into: dict[str, Any] = {"model": name, "key": input_key(folder), "weights": "base",
                            "parameters": sum(parameter.numel() for parameter in base.parameters()),
                            "arithmetic": "float32", "saved": settings.output_dtype}
    if settings.method == "qlora" and settings.qlora.merge_into == "dequantized":
        give_dequantised(base, training.model)
        into["weights"] = f"dequantized {settings.qlora.storage}"
    work.facts["merged_into"] = into
    adapted = add_adapter(base, shape, settings.seed, name)
    return save_and_merge(adapted, training.weights.masters, work.path / ADAPTER, into["key"])
