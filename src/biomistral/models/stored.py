"""A model whose weights are still on disk: its parameters on the meta device, each read when asked for, whole or in part."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from biomistral import ranks
from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.folder import read_config, weight_files
from biomistral.models.load import load_model, quiet
from biomistral.progress import log

_ROWS = 1 << 14
"""Rows of two embeddings that are compared at a time: 134 MB of two of width 4,096 in bfloat16."""


class StoredWeights:
    """The tensors of a model's files by the names of its parameters.

    Made from a model's files alone: every parameter is seen to be there, in its shape, before any of them is read.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, weights: skeleton.Weights) -> None:
        """
        Raises:
            UserError: a tensor is missing or of another shape, or two that ``config.json`` ties differ.
        """
        self._folder, self._weights = folder, weights
        self._names: dict[str, str] = {}
        used: set[str] = set()
        for names, parameter in _tied_names(model):
            stored = [found for name in names if (found := self._stored_name(name, model.base_model_prefix)) is not None]
            if not stored:
                raise UserError(self._is_missing(names[0]))
            self._check_shape(stored[0], parameter)
            for other in stored[1:]:
                self._check_equal(stored[0], other)
            self._names |= dict.fromkeys(names, stored[0])
            used.update(stored)
        extra = sorted(name for name in weights.place.keys() - used if not name.endswith("rotary_emb.inv_freq"))
        if extra and ranks.leads():
            others = f" and {len(extra) - 1} more tensors" if len(extra) > 1 else ""
            log.warning("%s: left out, as no part of its architecture: '%s'%s", folder, extra[0], others)

    def read(self, name: str) -> Tensor:
        """The tensor of a parameter as stored, (the parameter's shape), on the CPU; it may be a view of the file."""
        (tensor,) = self._weights.read([self._name(name)]).values()
        return tensor

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a parameter, (stop - start, ...): no more than these is read."""
        return self._weights.read_rows(self._name(name), start, stop)

    def _name(self, name: str) -> str:
        """The name in the files, also of a layer that an adapter has been put on."""
        return self._names[name.replace(".base_layer.", ".")]

    def _stored_name(self, name: str, prefix: str) -> str | None:
        """A parameter's name in the files: some hold the model without its head, and leave its prefix away."""
        short = name.removeprefix(f"{prefix}.")
        return name if name in self._weights.place else short if short in self._weights.place else None

    def _is_missing(self, name: str) -> str:
        index = self._folder / "model.safetensors.index.json"
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(name) if index.is_file() else None
        if where is not None:
            return (f"{self._folder / where}: holds no tensor '{name}', though {index.name} says so; the model is incomplete, "
                    "download or make it again")
        files = sorted({path.name for path in self._weights.place.values()})
        return (f"{self._folder}: tensor '{name}' is in none of its files ({', '.join(files[:3])}"
                f"{' ...' if len(files) > 3 else ''}); the model is incomplete, download or make it again")

    def _check_shape(self, name: str, parameter: Parameter) -> None:
        found = self._weights.shape(name)
        if found != tuple(parameter.shape):
            raise UserError(f"{self._weights.place[name]}: tensor '{name}' is {found}, the architecture of config.json expects "
                            f"{tuple(parameter.shape)}; take both from the same model")

    def _check_equal(self, name: str, other: str) -> None:
        rows = self._weights.shape(name)[0]
        if self._weights.shape(other) == self._weights.shape(name) and all(
                torch.equal(*(self._weights.read_rows(tensor, start, min(start + _ROWS, rows)) for tensor in (name, other)))
                for start in range(0, rows, _ROWS)):
            return
        raise UserError(f"{self._weights.place[other]}: '{other}' differs from '{name}', though config.json ties the two; set "
                        "tie_word_embeddings to false there if the model has both")


def _tied_names(model: PreTrainedModel) -> list[tuple[list[str], Parameter]]:
    """Every parameter with all its names, the one that `named_parameters` gives it first."""
    found: dict[Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return [(names, parameter) for parameter, names in found.items()]


def open_model(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, StoredWeights | None]:
    """A causal language model to be filled: parameters on the meta device in ``dtype``, and where to read them.

    An architecture whose tensors transformers converts when it loads them (experts that are stored one by one), or whose
    buffers only a full load computes, is loaded whole, on the CPU; nothing is then left to read (None).

    Raises:
        UserError: the folder is not a model; a tensor is missing, of another shape, or not what ``config.json`` says.
    """
    read_config(folder)
    files = weight_files(folder)
    quiet()
    try:
        model = skeleton.build(folder, dtype)
    except skeleton.Unbuildable:
        return load_model(folder, dtype), None
    if get_model_conversion_mapping(model, add_legacy=False):
        return load_model(folder, dtype), None
    return model, StoredWeights(folder, model, skeleton.Weights(files))


def read_whole(stored: StoredWeights | None, name: str, parameter: Parameter) -> Tensor:
    """The values of a parameter, wherever they are: in memory already, or still to be read."""
    if not parameter.is_meta:
        return parameter.detach()
    assert stored is not None
    return stored.read(name)
