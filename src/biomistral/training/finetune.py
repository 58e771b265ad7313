"""The ``finetune`` stage: train on prompts and completions, every weight or a low-rank adapter that is then merged."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from biomistral.artifact import Workspace, input_key
from biomistral.models.load import load_model, load_tokenizer
from biomistral.training.guard import check_model_folder
from biomistral.training.loop import Training, train
from biomistral.training.lora import add_adapter, save_and_merge
from biomistral.training.output import give_weights, pass_on_licences, write_model
from biomistral.training.settings import FinetuneSettings
from biomistral.training.supervised import SupervisedBlocks, find_examples

ADAPTER = "adapter"


def finetune(work: Workspace) -> None:
    """Train on the examples and write a model folder; with ``lora`` also the adapter, in ``adapter/``.

    Raises:
        UserError: an example is malformed or too long; the model cannot be trained; a loss is not finite.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    check_model_folder(folder, settings.sequence_length)
    blocks = _blocks(work, folder, settings.train)
    heldout = _blocks(work, folder, settings.validation) if settings.validation is not None else None
    model = load_model(folder, torch.float32)
    if settings.method == "lora":
        add_adapter(model, settings.lora, settings.seed, _base_name(settings))
    training = train(work, model, blocks, heldout, settings.sequence_length)
    work.counts |= {"examples": blocks.num_examples, "examples_dropped": blocks.dropped}
    work.facts |= {"method": settings.method, "loss": settings.loss}
    pass_on_licences(work, folder, work.locate(settings.train))
    if settings.method == "lora":
        model = _merge(work, training, folder)
        give_weights(model, {}, getattr(torch, settings.output_dtype))
    else:
        give_weights(model, training.weights.masters, getattr(torch, settings.output_dtype))
    write_model(model, work, folder)
    training.checkpoints.delete()


def _blocks(work: Workspace, folder: Path, name: str) -> SupervisedBlocks:
    settings = work.settings
    return SupervisedBlocks(find_examples(work.locate(name)), load_tokenizer(folder), settings.sequence_length, settings.seed,
                            settings.loss == "full_text", settings.too_long)


def _base_name(settings: FinetuneSettings) -> str:
    """How the adapter names the model it belongs to: as the user did."""
    return str(settings.model).removeprefix("hub:")


def _merge(work: Workspace, training: Training, folder: Path) -> PreTrainedModel:
    """Save the adapter and merge it into the base model's weights, in float32 whatever the training computed in."""
    settings = work.settings
    base = load_model(folder, torch.float32)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    adapted = add_adapter(base, settings.lora, settings.seed, _base_name(settings))
    work.facts["merged_into"] = {"model": _base_name(settings), "key": input_key(folder), "parameters": parameters,
                                 "arithmetic": "float32", "saved": settings.output_dtype}
    return save_and_merge(adapted, training.weights.masters, work.path / ADAPTER)
