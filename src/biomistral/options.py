"""Command-line options made from settings: one description serves the command line, the recipes and the docs."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from biomistral.errors import UserError
from biomistral.recipe import Input, Settings, StageSettings, parse

_UNIONS = (typing.Union, types.UnionType)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _item(annotation: Any) -> Any:
    """The type of a list's items; None if it is no list."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) in (list, tuple) else None


def _option_type(annotation: Any) -> Any:
    """The type the command line parses for a setting, or None if it can only be written in a recipe."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _option_type(arguments[0])
    if origin is typing.Literal:
        return annotation if all(isinstance(choice, str) for choice in arguments) else type(arguments[0])
    if isinstance(annotation, type) and origin is None:
        simple = [kind for kind in (bool, str, int, float) if issubclass(annotation, kind)]
        return simple[0] if simple else None
    if origin in _UNIONS:
        kinds = [kind for kind in arguments if kind is not type(None)]
        inner = _option_type(kinds[0])
        return inner if inner is None or len(kinds) == len(arguments) else inner | None
    if origin in (list, tuple):  # an item that is a setting of its own can be given as one word
        return list[str] if _is_settings(arguments[0]) or _option_type(arguments[0]) is not None else None
    if origin is dict:
        return list[str] if _option_type(arguments[1]) is str else None
    return None


def _flat_fields(model: type[Settings], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Fields by path; those of nested settings stand beside the others, as ``lora.rank``."""
    for name, field in model.model_fields.items():
        if _is_settings(field.annotation):
            assert isinstance(field.annotation, type)
            yield from _flat_fields(field.annotation, (*prefix, name))
        elif _option_type(field.annotation) is not None:
            yield (*prefix, name), field


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    if typing.get_origin(field.annotation) is dict:
        return f"{text} (NAME=VALUE, repeatable)"
    item = _item(field.annotation)
    choices = typing.get_args(item) if typing.get_origin(item) is typing.Literal else ()
    return f"{text} [any of {','.join(choices)}]" if choices else text


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
    if default is PydanticUndefined:
        return inspect.Parameter.empty
    if isinstance(default, dict):
        return [f"{key}={value}" for key, value in default.items()]
    return list(default) if isinstance(default, (list, tuple)) else default


def _flag(path: tuple[str, ...], field: FieldInfo) -> str:
    """``--the-name``; what is on unless told otherwise can be turned off: ``--the-name/--no-the-name``."""
    name = "-".join(path).replace("_", "-")
    return f"--{name}/--no-{name}" if field.annotation is bool and field.default is True else f"--{name}"


def _parameter(path: tuple[str, ...], field: FieldInfo, flags: tuple[str, ...], many: bool) -> inspect.Parameter:
    kind = list[str] if many else _option_type(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if extra.get("argument") and not flags:
        info: Any = typer.Argument(help=_help(field), show_default=False)
    else:
        info = typer.Option(*(flags or (_flag(path, field),)), help=_help(field))
    return inspect.Parameter("__".join(path), inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info],
                             default=_default(field))


def pairs(name: str, items: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` words as a mapping.

    Raises:
        UserError: a word without ``=``.
    """
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--{name.replace('_', '-')} {item}: NAME=VALUE was expected")
        found[key] = value
    return found


def _is_word_list(annotation: Any) -> bool:
    """Lists of words may be given with commas; lists of inputs may not, since paths can hold commas."""
    item = _item(annotation)
    return item is not None and not _is_settings(item) and item is not Input


def _collect(fields: dict[tuple[str, ...], FieldInfo], values: dict[str, Any]) -> dict[str, Any]:
    """Option values as the nested data that settings are read from."""
    data: dict[str, Any] = {}
    for path, field in fields.items():
        value = values["__".join(path)]
        if typing.get_origin(field.annotation) is dict and value is not None:
            value = pairs(path[-1], value)
        elif _is_word_list(field.annotation) and value is not None:
            value = [word for item in value for word in item.split(",") if word]
        place = data
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = value
    return data


def parameters_of(model: type[Settings], prefix: str = "") -> list[inspect.Parameter]:
    """The fields of settings of the machine, as options for ``common``; ``prefix``: in front of their flags."""
    before = (prefix,) if prefix else ()
    return [_parameter(path, field, (_flag((*before, *path), field),), many=False) for path, field in _flat_fields(model)]


def command_for(model: type[StageSettings], run: Callable[..., None], common: list[inspect.Parameter],
                flags: dict[str, tuple[str, ...]] | None = None, many: str = "") -> Callable[..., None]:
    """A function whose signature Typer reads: the settings' fields as options, then the ``common`` ones.

    It calls ``run(settings, **common values)``; with ``many``, the field of that name may be given several times and
    ``run`` gets a list of settings, one a value.
    """
    fields = dict(_flat_fields(model))
    shown = [_parameter(path, field, (flags or {}).get(path[-1], ()), path == (many,)) for path, field in fields.items()]

    def command(**values: Any) -> None:
        data = _collect(fields, values)
        rest = {parameter.name: values[parameter.name] for parameter in common}
        where = f"options of {model.kind}"
        if many:
            run([parse(model, {**data, many: value}, where) for value in data[many]], **rest)
        else:
            run(parse(model, data, where), **rest)

    command.__signature__ = inspect.Signature([*shown, *common])  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(model)
    return command
