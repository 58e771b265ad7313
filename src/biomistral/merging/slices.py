"""Which layers of which models make the result: mergekit's ``models`` and ``slices``, settled and checked."""

from dataclasses import dataclass, field
from typing import Any

from biomistral.errors import UserError
from biomistral.merging.catalogue import METHODS, Method
from biomistral.merging.checkpoint import Checkpoint
from biomistral.merging.config import Location, MergeFile
from biomistral.merging.schema import OutputSlice, SliceSource


@dataclass(frozen=True)
class Slice:
    """An output slice with its ranges settled.

    ``listed`` is where its sources stand in the file, ``location`` where it stands itself: None if the file lists whole models.
    """

    sources: list[SliceSource]
    base: str | None
    method_name: str
    listed: Location
    location: Location | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        first, end = self.sources[0].layer_range
        return end - first

    @property
    def method(self) -> Method:
        return METHODS[self.method_name]

    def is_base(self, model: str) -> bool:
        """Whether the slice's method treats this model as its base."""
        return self.method.has_base(self.base) and model == self.base


def settle_slices(merge: MergeFile, models: dict[str, Checkpoint], fit_layers: bool) -> tuple[list[Slice], dict[str, Any]]:
    """The slices of the result, and what `fit_layers` changed.

    Raises:
        UserError: a range past a model's layers, inputs of unequal length, too few or too many inputs, no base.
    """
    module = merge.module
    fitted: dict[str, Any] = {}
    if module.models:
        slices = [_whole(merge, models)]
    else:
        definitions = module.slices
        if fit_layers:
            definitions, fitted = _fit(merge, models)
        slices = [_slice(merge, part, index) for index, part in enumerate(definitions)]
    for part in slices:
        _check_slice(merge, models, part)
    return slices, fitted


def _whole(merge: MergeFile, models: dict[str, Checkpoint]) -> Slice:
    """Models listed whole: one slice, which the base joins if it is not listed."""
    config, module = merge.config, merge.module
    entries = {entry.model: entry.parameters for entry in module.models}
    if len(entries) < len(module.models):
        raise UserError(f"{merge.where(*merge.inside, 'models')}: a model appears twice; give each one entry")
    if config.base_model:
        entries.setdefault(config.base_model, {})
    sources = [SliceSource(model=name, parameters=parameters, layer_range=(0, models[name].depth))
               for name, parameters in entries.items()]
    return Slice(sources, config.base_model, config.merge_method, (*merge.inside, "models"))


def _slice(merge: MergeFile, part: OutputSlice, index: int) -> Slice:
    config = merge.config
    location: Location = (*merge.inside, "slices", index)
    return Slice(part.sources, part.base_model or config.base_model, part.merge_method or config.merge_method,
                 (*location, "sources"), location, part.parameters)


def _fit(merge: MergeFile, models: dict[str, Checkpoint]) -> tuple[list[OutputSlice], dict[str, Any]]:
    """A lone slice whose sources all start at layer 0 spans the published models' whole depth: give it these models' depth."""
    parts = merge.module.slices
    if len(parts) != 1 or len({source.layer_range for source in parts[0].sources}) != 1 or parts[0].sources[0].layer_range[0]:
        raise UserError(f"{merge.where(*merge.inside, 'slices')}: fit_layers fits one slice whose sources all have the same "
                        "layer_range from layer 0; this file cuts the models up, so write ranges that these models have")
    depth = min(models[source.model].depth for source in parts[0].sources)
    sources = [source.model_copy(update={"layer_range": (0, depth)}) for source in parts[0].sources]
    was = list(parts[0].sources[0].layer_range)
    return [parts[0].model_copy(update={"sources": sources})], {} if was[1] == depth else {"from": was, "to": [0, depth]}


def _check_slice(merge: MergeFile, models: dict[str, Checkpoint], part: Slice) -> None:
    where, names, method = merge.where(*part.listed), [source.model for source in part.sources], part.method
    if len(set(names)) < len(names):
        raise UserError(f"{where}: a model appears twice in one slice; give each one entry")
    if part.base not in names and (method.base == "required" or method.has_base(part.base)):
        said = f"'{part.base}' is not among the sources" if part.base else "'base_model' is missing"
        raise UserError(f"{where}: {part.method_name} needs a base model among its inputs; {said}")
    low, high = method.inputs
    counted = len(names) - (method.base == "optional" and part.base in names)
    if not low <= counted <= high:
        wanted = f"{low}" if low == high else f"at least {low}"
        how = "besides the base" if method.base == "optional" else "base included"
        raise UserError(f"{where}: {part.method_name} takes {wanted} model(s), {how}; here are {counted}")
    for number, source in enumerate(part.sources):
        end, depth = source.layer_range[1], models[source.model].depth
        if end > depth:
            raise UserError(f"{merge.where(*part.listed, number, 'layer_range')}: layer_range {list(source.layer_range)} goes "
                            f"past the {depth} layers of '{source.model}'; write [0, {depth}], or set fit_layers")
        if source.layer_range[1] - source.layer_range[0] != part.length:
            raise UserError(f"{where}: '{names[0]}' gives {part.length} layers and '{source.model}' "
                            f"{source.layer_range[1] - source.layer_range[0]}; a slice needs as many of each")
