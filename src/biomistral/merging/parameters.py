"""Parameters of a merge: which ones a method knows, and the value each takes at one tensor.

mergekit's order of precedence: the source's own setting, then the slice's, then the whole file's; inside one setting the
first filter that is part of the tensor's name; a list of numbers is a piecewise-linear gradient over the slice's layers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from biomistral.errors import UserError
from biomistral.recipe import Document, nearest

Value = float | bool | None


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    ``of`` says whom it belongs to: the merge as a whole, each input, or each input but the base.
    """

    name: str
    of: Literal["merge", "input", "other"]
    type: type = float
    default: Value = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Method:
    """What a merge method needs: its parameters, whether it has a base, how many inputs it takes."""

    parameters: tuple[Parameter, ...]
    needs_base: bool
    inputs: tuple[int, float]
    sparsify: Literal["nothing", "magnitude", "random"] = "nothing"
    consensus: bool = False

    def of(self, *owners: str) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters if parameter.of in owners}


def _task_vectors(sparsify: Literal["nothing", "magnitude", "random"], consensus: bool, normalize: bool) -> Method:
    common = (Parameter("weight", "other", required=True), Parameter("normalize", "merge", bool, normalize),
              Parameter("lambda", "merge", default=1.0), Parameter("int8_mask", "merge", bool, False))
    sparse = (Parameter("density", "other", default=1.0, low=0, high=1),
              Parameter("rescale", "merge", bool, sparsify == "random"))
    return Method(common if sparsify == "nothing" else common + sparse, True, (2, math.inf), sparsify, consensus)


METHODS = {
    "linear": Method((Parameter("weight", "input", required=True), Parameter("normalize", "merge", bool, True)),
                     False, (1, math.inf)),
    "slerp": Method((Parameter("t", "merge", required=True),), True, (2, 2)),
    "passthrough": Method((Parameter("scale", "input"),), False, (1, 1)),
    "task_arithmetic": _task_vectors("nothing", consensus=False, normalize=False),
    "ties": _task_vectors("magnitude", consensus=True, normalize=True),
    "dare_ties": _task_vectors("random", consensus=True, normalize=False),
    "dare_linear": _task_vectors("random", consensus=False, normalize=False),
}
"""``int8_mask`` changes no number (it saves mergekit memory); it is read because published files have it."""


@dataclass(frozen=True)
class Rule:
    """One value, or a gradient of values, for the tensors whose name holds ``filter`` (None: all)."""

    filter: str | None
    values: tuple[float | bool, ...]

    def matches(self, tensor: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in tensor

    def at(self, position: float) -> float | bool:
        """The value at a layer position in [0, 1]; booleans step, numbers interpolate."""
        if len(self.values) == 1:
            return self.values[0]
        scaled = position * (len(self.values) - 1)
        low = int(scaled)
        if isinstance(self.values[0], bool):
            return self.values[low]
        high, share = min(len(self.values) - 1, low + 1), scaled - low
        return (1 - share) * self.values[low] + share * self.values[high]


@dataclass(frozen=True)
class Scope:
    """The parameters written in one place of the file, parsed."""

    where: str
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)

    def value(self, name: str, tensor: str, position: float) -> Value:
        """The value for a tensor, None if this scope does not speak of it."""
        for rule in self.rules.get(name, ()):
            if rule.matches(tensor):
                return rule.at(position)
        return None


def resolve(parameters: Iterable[Parameter], scopes: list[Scope], tensor: str, position: float) -> dict[str, Any]:
    """Values of all ``parameters`` at one tensor; ``scopes`` in order of precedence.

    Raises:
        UserError: a required one is set nowhere.
    """
    values: dict[str, Value] = {}
    for parameter in parameters:
        found = (scope.value(parameter.name, tensor, position) for scope in scopes)
        value = next((value for value in found if value is not None), parameter.default)
        if value is None and parameter.required:
            raise UserError(f"{scopes[0].where}: parameter '{parameter.name}' is missing for tensor {tensor}; set it there or "
                            "for the whole file, without a filter or with one that this name holds")
        values[parameter.name] = value
    return values


def read_scope(document: Document, location: tuple[str | int, ...], data: dict[str, Any], known: dict[str, Parameter],
               hint: dict[str, str]) -> Scope:
    """Parse the ``parameters`` mapping at ``location``.

    ``hint`` says, for names that are known but do not belong here, why.

    Raises:
        UserError: an unknown parameter or a value of the wrong kind, with file and line.
    """
    rules = {}
    for name, value in data.items():
        where = document.where((*location, "parameters", name))
        if name not in known:
            raise UserError(f"{where}: parameter '{name}' {hint.get(name) or 'is unknown here' + nearest(str(name), known)}")
        rules[name] = tuple(_rules(value, known[name], where))
    return Scope(document.where(location), rules)


def _rules(data: Any, parameter: Parameter, where: str) -> Iterable[Rule]:
    conditions = data if isinstance(data, list) and any(isinstance(item, dict) for item in data) else [data]
    for condition in conditions:
        if not isinstance(condition, dict):
            yield Rule(None, _values(condition, parameter, where))
            continue
        if "value" not in condition or not set(condition) <= {"filter", "value"}:
            raise UserError(f"{where}: '{parameter.name}' takes entries of 'value' and 'filter', not {sorted(condition)}")
        if not isinstance(condition.get("filter"), (str, type(None))):
            raise UserError(f"{where}: filter {condition['filter']!r} of '{parameter.name}' is not text")
        yield Rule(condition.get("filter"), _values(condition["value"], parameter, where))


def _values(data: Any, parameter: Parameter, where: str) -> tuple[float | bool, ...]:
    values = tuple(_scalar(value, parameter, where) for value in (data if isinstance(data, list) else [data]))
    if not values:
        raise UserError(f"{where}: '{parameter.name}' is an empty list")
    return values


def _scalar(value: Any, parameter: Parameter, where: str) -> float | bool:
    if parameter.type is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where}: '{parameter.name}' = {value!r}: true or false was expected")
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML 1.1 reads 1e-3 as text: float() takes it
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: '{parameter.name}' = {value!r}: a number was expected")
    if not parameter.low <= number <= parameter.high:
        raise UserError(f"{where}: '{parameter.name}' = {number:g} lies outside {parameter.low:g} to {parameter.high:g}")
    return number
