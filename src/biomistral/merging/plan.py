"""What a merge will do, tensor by tensor, checked against the models before the first byte is written."""

from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from biomistral.errors import UserError
from biomistral.merging.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from biomistral.merging.compatibility import check_models
from biomistral.merging.config import MergeFile, read_merge_file
from biomistral.merging.parameters import METHODS, Scope, read_scope, resolve
from biomistral.merging.slices import Slice, settle_slices
from biomistral.recipe import nearest

CHUNK = 1 << 18
"""Elements read at once: 256 K of them in 16 bits are 0.5 MB, so a chunk of every input stays in the second-level cache."""

_FIRST_SLICE = ("embed", "wte", "wpe")


@dataclass(frozen=True)
class PlannedInput:
    """One model's part in one tensor."""

    model: str
    tensor: str
    stored: StoredTensor
    parameters: dict[str, Any]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result. ``dtype`` is what is computed in, ``out_dtype`` what is written; the base comes first."""

    name: str
    method: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    out_dtype: torch.dtype
    parameters: dict[str, Any]
    inputs: tuple[PlannedInput, ...]

    @property
    def numel(self) -> int:
        return self.inputs[0].stored.numel

    @property
    def nbytes(self) -> int:
        return self.numel * int(self.out_dtype.itemsize)


@dataclass(frozen=True)
class Plan:
    """A merge ready to be carried out."""

    merge: MergeFile
    models: dict[str, Checkpoint]
    tensors: list[PlannedTensor]
    notes: list[str] = field(default_factory=list)
    fitted: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Checkpoint:
        """The model whose config and, unless another is named, tokenizer the result takes."""
        return self.models[self.merge.model_names[0]]

    @property
    def depth(self) -> int:
        return len({tensor.name.removeprefix(self.base.stack + ".").split(".")[0] for tensor in self.tensors
                    if tensor.name.startswith(self.base.stack + ".")})

    @property
    def layer_types(self) -> list[str]:
        """``layer_types`` of the result's config: each layer has the kind of the layer its first input comes from."""
        kinds: dict[int, str] = {}
        for tensor in self.tensors:
            if tensor.name.startswith(self.base.stack + "."):
                source = tensor.inputs[0]
                layer, origin = (int(name.removeprefix(self.base.stack + ".").split(".")[0])
                                 for name in (tensor.name, source.tensor))
                kinds[layer] = self.models[source.model].config["layer_types"][origin]
        return [kinds[layer] for layer in sorted(kinds)]

    @property
    def bytes_written(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bytes_read(self) -> int:
        """Bytes of one reading of every input; methods that gather statistics first read some of them again."""
        return sum(source.stored.nbytes for tensor in self.tensors for source in tensor.inputs)

    @property
    def working_bytes(self) -> int:
        """Estimate of the buffers: per input a raw and a converted chunk and two float32 ones, and six for the result."""
        return CHUNK * 4 * (4 * max(len(tensor.inputs) for tensor in self.tensors) + 6)


def plan_merge(config: Path, folders: dict[str, Path], fit_layers: bool = False) -> Plan:
    """Plan a merge.

    Args:
        config: mergekit YAML file.
        folders: where each model that the file names lies; names that are local folders may be left out.
        fit_layers: see `MergeSettings`.

    Raises:
        UserError: anything about the file or the models that would make the merge impossible or meaningless.
    """
    merge = read_merge_file(config)
    models = _open_models(merge, folders)
    notes = check_models(merge, list(models.values()))
    slices, fitted = settle_slices(merge, models, fit_layers)
    planner = _Planner(merge, models)
    tensors = planner.tensors(slices)
    return Plan(merge, models, tensors, [*notes, *planner.idle_filters()], fitted)


def _open_models(merge: MergeFile, folders: dict[str, Path]) -> dict[str, Checkpoint]:
    names = merge.model_names
    for name in folders:
        if name not in names:
            raise UserError(f"models: {merge.document.path} names no model '{name}'{nearest(name, names)}")
    models = {}
    for name in names:
        folder = folders.get(name, Path(name).expanduser())
        if name not in folders and not folder.is_dir():
            raise UserError(f"{merge.document.path}: model '{name}' is no local folder; say where it lies with "
                            f"models: {{{name}: FOLDER}} (hub:{name} downloads it)")
        models[name] = open_checkpoint(name, folder)
    return models


class _Planner:
    """Walks the tensors of the result in order: embeddings, layers, final norm and head."""

    def __init__(self, merge: MergeFile, models: dict[str, Checkpoint]) -> None:
        self._merge, self._models = merge, models
        self._method = METHODS[merge.config.merge_method]
        self._global = read_scope(merge.document, (), merge.config.parameters,
                                  self._method.of("merge", "input", "other"), {})
        self._scopes: list[Scope] = [self._global]

    def tensors(self, slices: list[Slice]) -> list[PlannedTensor]:
        """Embeddings take the first slice's settings, final norm and head the last's, all at layer position 0."""
        base = self._models[self._merge.model_names[0]]
        outer = [name for name in base.outer_tensors if not (base.tied and name == "lm_head.weight")]
        before = [name for name in outer if any(word in name for word in _FIRST_SLICE)]
        scopes = [self._slice_scopes(part) for part in slices]
        planned = [self._tensor(slices[0], scopes[0], name, [name] * len(slices[0].sources), 0.0) for name in before]
        layer = 0
        for part, scope in zip(slices, scopes, strict=True):
            for offset in range(part.length):
                planned += self._layer(part, scope, layer, offset)
                layer += 1
        return planned + [self._tensor(slices[-1], scopes[-1], name, [name] * len(slices[-1].sources), 0.0)
                          for name in outer if name not in before]

    def _layer(self, part: Slice, scopes: dict[str, list[Scope]], layer: int, offset: int) -> list[PlannedTensor]:
        position = offset / (part.length - 1) if part.length > 1 else 1.0
        found = [self._models[source.model].layer_tensors(source.layer_range[0] + offset) for source in part.sources]
        stack = self._models[part.sources[0].model].stack
        for source, names in zip(part.sources, found, strict=True):
            if odd := sorted(set(names) ^ set(found[0])):
                which = source.layer_range[0] + offset
                raise UserError(f"{self._models[source.model].folder}: layer {which} of '{source.model}' and layer "
                                f"{part.sources[0].layer_range[0] + offset} of '{part.sources[0].model}' do not have the same "
                                f"tensors: {odd[0]} is in one only")
        return [self._tensor(part, scopes, f"{stack}.{layer}.{rest}", [names[rest] for names in found], position)
                for rest in sorted(found[0])]

    def _slice_scopes(self, part: Slice) -> dict[str, list[Scope]]:
        """Scopes of each source, and under "" those of the merge as a whole, in order of precedence."""
        document, scopes = self._merge.document, {"": [self._global]}
        if part.definition is not None and part.index is not None:
            scope = read_scope(document, ("slices", part.index), part.definition.parameters,
                               self._method.of("merge", "input", "other"), {})
            scopes[""] = [scope, self._global]
        for number, source in enumerate(part.sources):
            location = ("models", number) if part.index is None else ("slices", part.index, "sources", number)
            is_base = self._method.needs_base and source.model == part.base
            known = self._method.of("input") if is_base else self._method.of("input", "other")
            hint = dict.fromkeys(self._method.of("merge"), "belongs to the whole merge: write it under the file's 'parameters'")
            if is_base:
                hint |= dict.fromkeys(self._method.of("other"), "has no meaning for the base model; remove it")
            scopes[source.model] = [read_scope(document, location, source.parameters, known, hint), *scopes[""]]
        self._scopes += [scope for scope in chain(*scopes.values()) if scope not in self._scopes]
        return scopes

    def _tensor(self, part: Slice, scopes: dict[str, list[Scope]], name: str, names: list[str], position: float
                ) -> PlannedTensor:
        """Each input's own parameters look at the input's tensor name, shared ones at the result's."""
        inputs: list[PlannedInput] = []
        for source, tensor in zip(part.sources, names, strict=True):
            is_base = self._method.needs_base and source.model == part.base
            known = self._method.of("input") if is_base else self._method.of("input", "other")
            parameters = resolve(known.values(), scopes[source.model], tensor, position)
            planned = PlannedInput(source.model, tensor, self._stored(source.model, tensor), parameters)
            inputs.insert(0 if is_base else len(inputs), planned)
        self._check_shapes(name, inputs)
        shared = resolve(self._method.of("merge").values(), scopes[""], name, position)
        if self._merge.config.merge_method == "linear" and shared["normalize"] and not sum(
                source.parameters["weight"] for source in inputs):
            raise UserError(f"{self._merge.where('parameters')}: the weights of {name} sum to 0 and cannot be normalised; change "
                            "them or set normalize: false")
        dtype = reduce(torch.promote_types, (source.stored.dtype for source in inputs))
        config = self._merge.config
        dtype = getattr(torch, config.dtype) if config.dtype else dtype
        return PlannedTensor(name, config.merge_method, inputs[0].stored.shape, dtype,
                             getattr(torch, config.out_dtype) if config.out_dtype else dtype, shared, tuple(inputs))

    def _stored(self, model: str, tensor: str) -> StoredTensor:
        return self._models[model].tensors[tensor]

    def _check_shapes(self, name: str, inputs: list[PlannedInput]) -> None:
        first = inputs[0]
        for source in inputs:
            if source.stored.shape != first.stored.shape:
                rows = source.stored.shape[1:] == first.stored.shape[1:] and name in self._models[first.model].outer_tensors
                raise UserError(f"{source.stored.file}: {source.tensor} has shape {list(source.stored.shape)}, in "
                                f"'{first.model}' it is {list(first.stored.shape)}; "
                                + ("their vocabularies differ in size: give both the same tokens first" if rows else
                                   "only models of one shape can be merged"))

    def idle_filters(self) -> list[str]:
        """Filters that no tensor's name holds: most likely a slip, so the plan says it."""
        names = [name for model in self._models.values() for name in model.tensors]
        return [f"{scope.where}: filter '{rule.filter}' of '{parameter}' matches no tensor"
                for scope in self._scopes for parameter, rules in scope.rules.items() for rule in rules
                if not any(rule.matches(name) for name in names)]
