"""What comes of a training: a model folder in the output precision, and the licences of what went in."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.models.save import save_model


def give_weights(model: PreTrainedModel, masters: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Put trained weights into a model and round all of it to ``dtype``, once, on the CPU.

    Parameters are replaced and not filled, since those of a sharded model hold one process's part.
    """
    given = {parameter: Parameter(masters.get(name, parameter).detach().to("cpu", dtype), requires_grad=False)
             for name, parameter in model.named_parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, given[parameter])


def write_model(model: PreTrainedModel, work: Workspace, base: Path) -> None:
    """Write the model folder, with the tokenizer, chat template and generation settings of the model it started from."""
    model.config.dtype = getattr(torch, work.settings.output_dtype)
    save_model(model, work.path, base)


def pass_on_licences(work: Workspace, *inputs: Path) -> None:
    """Count the licences of everything that went into the model."""
    licences: Counter[str] = Counter()
    for path in inputs:
        if is_artifact(path):
            licences.update(open_artifact(path).manifest["licences"])
    work.licences |= dict(sorted(licences.items()))
