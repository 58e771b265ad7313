"""Which tensors the result has, in order, and of what each is made: slices, parameters and shapes settled tensor by tensor."""

from itertools import chain
from typing import Any

from biomistral.errors import UserError
from biomistral.merging.adapters import Adapted, Adapter
from biomistral.merging.alignment import Run, aligned, has_rows_of_tokens
from biomistral.merging.catalogue import METHODS, Parameter, odd_values
from biomistral.merging.checkpoint import Checkpoint
from biomistral.merging.config import MergeFile
from biomistral.merging.floats import BY_NAME, Float, promoted
from biomistral.merging.parameters import Scope, read_scope, resolve
from biomistral.merging.planned import PlannedInput, PlannedTensor
from biomistral.merging.slices import Slice
from biomistral.merging.vocabulary import Vocabulary

_FIRST_SLICE = ("embed", "wte", "wpe")


class Planner:
    """Walks the tensors of the result in order: embeddings, layers, final norm and head."""

    def __init__(self, merge: MergeFile, models: dict[str, Checkpoint], adapters: dict[str, Adapter],
                 vocabulary: Vocabulary | None, arithmetic: Float | None = None) -> None:
        self._merge, self._models, self._adapters, self._vocabulary = merge, models, adapters, vocabulary
        self._runs: dict[tuple[str, ...], list[Run]] = {}
        self._stack = next(iter(models.values())).stack + "."
        said, written = merge.config.dtype, merge.config.out_dtype or merge.config.dtype
        self._dtype = arithmetic or (BY_NAME[said] if said else None)
        self._written = BY_NAME[written] if written else None
        config, known = merge.config, self._known(*merge.methods)
        self._shared = [read_scope(merge.document, (), config.parameters, known, {})]
        if merge.inside:
            self._shared.insert(0, read_scope(merge.document, merge.inside, merge.module.parameters, known, {}))
        self._scopes: list[Scope] = [*self._shared]

    @staticmethod
    def _known(*methods: str) -> dict[str, Parameter]:
        """Every parameter that one of the methods has."""
        return {name: parameter for method in methods
                for name, parameter in METHODS[method].of("merge", "input", "other").items()}

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
        document, scopes, method = self._merge.document, {"": self._shared}, part.method
        if part.location is not None:
            scope = read_scope(document, part.location, part.parameters, self._known(part.method_name), {})
            scopes[""] = [scope, *self._shared]
        for number, source in enumerate(part.sources):
            is_base = part.is_base(source.model)
            known = method.of("input") if is_base else method.of("input", "other")
            hint = dict.fromkeys(method.of("merge"), "belongs to the whole merge: write it under the file's 'parameters'")
            if is_base:
                hint |= dict.fromkeys(method.of("other"), "has no meaning for the base model; remove it")
            scopes[source.model] = [read_scope(document, (*part.listed, number), source.parameters, known, hint), *scopes[""]]
        self._scopes += [scope for scope in chain(*scopes.values()) if scope not in self._scopes]
        return scopes

    def _tensor(self, part: Slice, scopes: dict[str, list[Scope]], name: str, names: list[str], position: float
                ) -> PlannedTensor:
        """Each input's own parameters look at the input's tensor name, shared ones at the result's."""
        inputs: list[PlannedInput] = []
        for source, tensor in zip(part.sources, names, strict=True):
            is_base = part.is_base(source.model)
            known = part.method.of("input") if is_base else part.method.of("input", "other")
            parameters = resolve(known.values(), scopes[source.model], tensor, position)
            inputs.insert(0 if is_base else len(inputs), self._input(source.model, tensor, parameters))
        if self._vocabulary is not None and has_rows_of_tokens(name) and not name.startswith(self._stack):
            inputs = aligned(self._vocabulary, inputs, part.base, self._dtype, self._runs)
        self._check_shapes(name, inputs)
        shared = resolve(part.method.of("merge").values(), scopes[""], name, position)
        others = [source.parameters for source in inputs if not part.is_base(source.model)]
        if odd := odd_values(part.method_name, shared, others):
            raise UserError(f"{self._merge.where('parameters')}: tensor {name}: {odd}")
        stored = promoted([source.dtype for source in inputs])
        return PlannedTensor(name, part.method_name, inputs[0].shape, self._dtype or stored, self._written or stored, shared,
                             tuple(inputs), len(others) < len(inputs))

    def _input(self, model: str, tensor: str, parameters: dict[str, Any]) -> PlannedInput:
        stored, adapter = self._models[model].tensors[tensor], self._adapters.get(model)
        if adapter is None:
            return PlannedInput(model, tensor, stored, parameters)
        stored = adapter.replaced.get(tensor, stored)
        if tensor not in adapter.changes:
            return PlannedInput(model, tensor, stored, parameters)
        rounded_to = Float.F32 if self._dtype is Float.F32 else stored.dtype
        return PlannedInput(model, tensor, stored, parameters,
                            Adapted(tensor, stored, adapter.changes[tensor], rounded_to))

    def _check_shapes(self, name: str, inputs: list[PlannedInput]) -> None:
        first = inputs[0]
        for source in inputs:
            if source.shape != first.shape:
                rows = source.shape[1:] == first.shape[1:] and name in self._models[first.model].outer_tensors
                raise UserError(f"{source.stored.file}: {source.tensor} has shape {list(source.shape)}, in '{first.model}' it is "
                                f"{list(first.shape)}; "
                                + ("their vocabularies differ in size: write 'tokenizer_source: base' (the base's tokens), "
                                   "'union' (those of all models) or the name of the model whose tokens the result is to have"
                                   if rows else "only models of one shape can be merged"))

    def notes(self) -> list[str]:
        """What is most likely a slip: filters that no tensor's name holds, and parameters that do nothing."""
        names = [name for model in self._models.values() for name in model.tensors]
        known = self._known(*self._merge.methods)
        filters = [f"{scope.where}: filter '{rule.filter}' of '{parameter}' matches no tensor"
                   for scope in self._scopes for parameter, rules in scope.rules.items() for rule in rules
                   if not any(rule.matches(name) for name in names)]
        idle = [f"{scope.where}: '{parameter}' changes nothing in {self._merge.config.merge_method}"
                for scope in self._scopes for parameter in scope.rules if known[parameter].idle and parameter != "int8_mask"]
        return filters + idle
