"""Two pages of the site that are made from the code, so that they cannot fall behind it: every command and every setting."""

import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from biomistral.cli import app
from biomistral.recipe import Input, Machine, Recipe, Settings
from biomistral.run import KINDS, settings_class

COMMANDS = """# Commands

Every command with its options, as `biomistral COMMAND --help` has them. What a command is for stands in
[the guide](guide.md).
"""
SETTINGS = """# Settings

What a recipe's stages can say, by `kind`. A setting with a command-line option has the same name there, with dashes, and a
dot as a dash: `lora.rank` is `--lora-rank`. `sources[].input` is a setting of each entry of the list `sources`.
[Recipes](guide/recipes.md) says how a recipe is put together.
"""
MACHINE = """ No part of a recipe either: these are options of the commands that use them, where `requests.` falls away
(`--concurrency`), and `biomistral.run.execute` takes them as a `Machine`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add both pages to the site's files (mkdocs calls this)."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Say before a block why no test runs it, which the files say in a comment (mkdocs calls this)."""
    return re.sub(r"^<!-- not run: (.*?) -->$", r"<small>Not run by the tests: \1.</small>\n", markdown, flags=re.MULTILINE)


def commands_page() -> str:
    """Every command of the Typer app, those of groups after their group."""
    return "\n".join([COMMANDS, *(_command(path, command) for path, command in leaves(typer.main.get_command(app)))])


def leaves(command: Any, path: tuple[str, ...] = ("biomistral",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands that do something, with the words that call them."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name in sorted(command.commands):
        yield from leaves(command.commands[name], (*path, name))


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([*path, *(_argument(one) for one in arguments), "[OPTIONS]"])
    lines = [f"## {' '.join(path)}", "", _cell(_one_line(command.help or "")), "", f"```text\n{usage}\n```", ""]
    lines += [f"`{_argument(one)}`: {_cell(_one_line(one.help or ''))}\n" for one in arguments]
    lines += ["| option | default | what |", "|---|---|---|"]
    return "\n".join([*lines, *(_option(one) for one in command.params if one.param_type_name == "option"), ""])


def _argument(one: Any) -> str:
    return f"{one.name.upper()}{'...' if one.nargs == -1 else ''}"


def _option(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    words = _choices(one)
    choices = f" (`{'`, `'.join(words)}`)" if words else ""
    default = "needed" if one.required else _value(one.default)
    return f"| {names} | {default} | {_cell(_one_line(one.help or ''))}{choices} |"


def _choices(one: Any) -> tuple[str, ...]:
    """What an option can be, where it can only be one of a few words; older versions of Typer keep them with click's type."""
    annotation = getattr(getattr(one, "type_descriptor", None), "annotation", None)
    if typing.get_origin(annotation) is typing.Literal:
        return tuple(str(choice) for choice in typing.get_args(annotation))
    return tuple(getattr(getattr(one, "type", None), "choices", ()))


def settings_page() -> str:
    """The recipe itself, the settings of every kind of stage, nested ones beside the others, and those of the machine."""
    kinds = [_table(f"kind: {kind}", settings_class(kind)) for kind in KINDS]
    return "\n".join([SETTINGS, _table("A recipe", Recipe), *kinds, _table("On this machine", Machine, MACHINE)])


def _table(heading: str, settings: type[Settings], more: str = "") -> str:
    rows = [f"| `{name}` | {_cell(_type(field.annotation))} | {_field_default(field)} | {_cell(field.description or '')} |"
            for name, field in _fields(settings)]
    return "\n".join([f"## {heading}", "", _cell(_one_line(inspect.getdoc(settings) or "")) + more, "",
                      "| setting | type | default | what |", "|---|---|---|---|", *rows, ""])


def _fields(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if not _is_settings(field.annotation):
            yield prefix + name, field
        nested = [one for one in (field.annotation, *typing.get_args(field.annotation)) if _is_settings(one)]
        mark = "[]" if typing.get_origin(field.annotation) in (list, tuple) else ""
        for one in nested:
            yield from _fields(one, f"{prefix}{name}{mark}.")


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _field_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
    return "needed" if default is PydanticUndefined else _value(default)


def _type(annotation: Any) -> str:
    """A type in a reader's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if _is_settings(annotation):
        return "mapping"
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments)
    if origin in (list, tuple):
        return "list of mappings" if _is_settings(arguments[0]) else f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"names to {_type(arguments[1])}"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null",
          Input: "input", Any: "anything"}


def _value(value: Any) -> str:
    """A default as a recipe has it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(one) for one in value) or "none"
    if value is None or value == "" or value == {} or callable(value):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _one_line(text: str) -> str:
    return " ".join(text.split("\f")[0].split())


def _cell(text: str) -> str:
    """Text that Markdown takes as it stands."""
    plain = re.sub(r"([*_<\[\]|])", r"\\\1", text)
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"\\([*_<\[\]])", r"\1", code.group()), plain)
