"""Which layers of which models make the result: mergekit's ``models`` and ``slices``, settled and checked."""

from dataclasses import dataclass
from typing import Any

from biomistral.errors import UserError
from biomistral.merging.checkpoint import Checkpoint
from biomistral.merging.config import MergeFile, OutputSlice, SliceSource
from biomistral.merging.parameters import METHODS


@dataclass(frozen=True)
class Slice:
    """An output slice with its ranges settled.

    ``index`` is its place in the file and ``definition`` what stands there, both None if the file lists whole models.
    """

    sources: list[SliceSource]
    base: str | None
    index: int | None
    definition: OutputSlice | None

    @property
    def length(self) -> int:
        first, end = self.sources[0].layer_range
        return end - first


def settle_slices(merge: MergeFile, models: dict[str, Checkpoint], fit_layers: bool) -> tuple[list[Slice], dict[str, Any]]:
    """The slices of the result, and what `fit_layers` changed.

    Raises:
        UserError: a range past a model's layers, inputs of unequal length, too few or too many inputs, no base.
    """
    config = merge.config
    fitted: dict[str, Any] = {}
    if config.models:
        entries = {entry.model: entry.parameters for entry in config.models}
        if len(entries) < len(config.models):
            raise UserError(f"{merge.where('models')}: a model appears twice; give each one entry")
        if config.base_model:
            entries.setdefault(config.base_model, {})
        sources = [SliceSource(model=name, parameters=parameters, layer_range=(0, models[name].depth))
                   for name, parameters in entries.items()]
        slices = [Slice(sources, config.base_model, None, None)]
    else:
        definitions = config.slices
        if fit_layers:
            definitions, fitted = _fit(merge, models)
        slices = [Slice(part.sources, part.base_model or config.base_model, index, part)
                  for index, part in enumerate(definitions)]
    for part in slices:
        _check_slice(merge, models, part)
    return slices, fitted


def _fit(merge: MergeFile, models: dict[str, Checkpoint]) -> tuple[list[OutputSlice], dict[str, Any]]:
    """A lone slice whose sources all start at layer 0 spans the published models' whole depth: give it these models' depth."""
    parts = merge.config.slices
    if len(parts) != 1 or len({source.layer_range for source in parts[0].sources}) != 1 or parts[0].sources[0].layer_range[0]:
        raise UserError(f"{merge.where('slices')}: fit_layers fits one slice whose sources all have the same layer_range from "
                        "layer 0; this file cuts the models up, so write ranges that these models have")
    depth = min(models[source.model].depth for source in parts[0].sources)
    sources = [source.model_copy(update={"layer_range": (0, depth)}) for source in parts[0].sources]
    was = list(parts[0].sources[0].layer_range)
    return [parts[0].model_copy(update={"sources": sources})], {} if was[1] == depth else {"from": was, "to": [0, depth]}


def _check_slice(merge: MergeFile, models: dict[str, Checkpoint], part: Slice) -> None:
    where = merge.where("models") if part.index is None else merge.where("slices", part.index, "sources")
    names, method = [source.model for source in part.sources], METHODS[merge.config.merge_method]
    if len(set(names)) < len(names):
        raise UserError(f"{where}: a model appears twice in one slice; give each one entry")
    low, high = method.inputs
    if not low <= len(names) <= high:
        wanted = f"{low}" if low == high else f"at least {low}"
        raise UserError(f"{where}: {merge.config.merge_method} takes {wanted} model(s), base included; here are {len(names)}")
    if method.needs_base and part.base not in names:
        said = f"'{part.base}' is not among the sources" if part.base else "'base_model' is missing"
        raise UserError(f"{where}: {merge.config.merge_method} needs a base model among its inputs; {said}")
    for number, source in enumerate(part.sources):
        end, depth = source.layer_range[1], models[source.model].depth
        if end > depth:
            raise UserError(f"{merge.where('slices', part.index or 0, 'sources', number, 'layer_range')}: layer_range "
                            f"{list(source.layer_range)} goes past the {depth} layers of '{source.model}'; write [0, {depth}], "
                            "or set fit_layers")
        if source.layer_range[1] - source.layer_range[0] != part.length:
            raise UserError(f"{where}: '{names[0]}' gives {part.length} layers and '{source.model}' "
                            f"{source.layer_range[1] - source.layer_range[0]}; a slice needs as many of each")
