"""Command-line options made from settings: one description serves the command line, the recipes and the docs."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from biomistral.errors import UserError
from biomistral.recipe import Input, StageSettings, parse

SIMPLE = (str, int, float, bool)


def _option_type(annotation: Any) -> Any:
    """The type the command line parses for a setting, or None if it can only be written in a recipe."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Input:
        return str
    if annotation in SIMPLE or origin is typing.Literal:
        return annotation
    if origin in (typing.Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        inner = _option_type(kinds[0])
        return inner | None if inner is not None and len(arguments) == 2 and type(None) in arguments else inner
    if origin in (list, tuple):
        inner = _option_type(arguments[0])
        if inner is None and hasattr(arguments[0], "model_fields"):
            inner = str  # a nested setting that can be written as one word
        return list[inner] if inner is not None else None  # type: ignore[valid-type]
    if origin is dict and _option_type(arguments[1]) is str:
        return list[str]
    return None


def _is_mapping(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is dict


def _parameter(name: str, field: FieldInfo, flags: tuple[str, ...]) -> inspect.Parameter | None:
    kind = _option_type(field.annotation)
    if kind is None:
        return None
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = (field.description or "") + (" (NAME=VALUE, repeatable)" if _is_mapping(field) else "")
    default = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
    required = default is PydanticUndefined
    if _is_mapping(field) and not required:
        default = [f"{key}={value}" for key, value in default.items()]
    elif typing.get_origin(kind) is list and not required:
        default = list(default or [])
    metavar = extra.get("metavar")
    if extra.get("argument"):
        info: Any = typer.Argument(help=text, metavar=str(metavar) if metavar else None)
    else:
        info = typer.Option(*(flags or ("--" + name.replace("_", "-"),)), help=text)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info],
                             default=inspect.Parameter.empty if required else default)


def command_for(model: type[StageSettings], run: Callable[..., None], common: list[inspect.Parameter],
                flags: dict[str, tuple[str, ...]] | None = None) -> Callable[..., None]:
    """A function whose signature Typer reads: the settings' fields as options, then the ``common`` ones.

    It calls ``run(settings, **common values)``.
    """
    fields = {name: _parameter(name, field, (flags or {}).get(name, ())) for name, field in model.model_fields.items()}
    shown = [parameter for parameter in fields.values() if parameter is not None]

    def command(**values: Any) -> None:
        data = {name: values[name] for name, parameter in fields.items() if parameter is not None}
        for name, field in model.model_fields.items():
            if _is_mapping(field) and data.get(name) is not None:
                data[name] = _pairs(name, data[name])
        rest = {parameter.name: values[parameter.name] for parameter in common}
        run(parse(model, data, f"{model.kind} options"), **rest)

    command.__signature__ = inspect.Signature([*shown, *common])  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(model)
    return command


def _pairs(name: str, items: list[str]) -> dict[str, str]:
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--{name.replace('_', '-')} {item}: NAME=VALUE was expected")
        pairs[key] = value
    return pairs
