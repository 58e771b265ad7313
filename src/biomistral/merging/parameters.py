"""Parameters of a merge: how they are written in the file, and the value each takes at one tensor.

mergekit's order of precedence: the source's own setting, then the slice's, then the whole file's; inside one setting the
first filter that is part of the tensor's name; a list of numbers is a piecewise-linear gradient over the slice's layers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from biomistral.errors import UserError
from biomistral.merging.catalogue import Parameter, Value
from biomistral.recipe import Document, nearest


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
    if len(conditions) > 1 and not all(isinstance(item, dict) for item in conditions):
        raise UserError(f"{where}: '{parameter.name}' mixes numbers with entries of 'value' and 'filter'; write one or the other")
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
        if isinstance(value, (bool, int, float)) and value in (0, 1):  # mergekit takes 0 and 1 too
            return bool(value)
        raise UserError(f"{where}: '{parameter.name}' = {value!r}: true or false was expected")
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML 1.1 reads 1e-3 as text: float() takes it
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: '{parameter.name}' = {value!r}: a number was expected")
    if not parameter.low <= number <= parameter.high:
        raise UserError(f"{where}: '{parameter.name}' = {number:g} lies outside {parameter.low:g} to {parameter.high:g}")
    return number
