"""What commands share: options of the machine, running one stage, printing what came of it."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from biomistral import ranks
from biomistral.options import command_for, parameters_of
from biomistral.recipe import Machine, Requests, SecondServer, StageSettings, parse
from biomistral.run import execute, settings_class

Json = Annotated[bool, typer.Option("--json", help="print machine-readable results on stdout")]
Out = Annotated[Path, typer.Option("--out", help="folder to write; must be new, empty or hold the same artifact")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or auto")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="worker processes; 0 takes one per core")]
Executor = Annotated[Literal["local", "ray"], typer.Option(
    "--executor", help="local: processes of this machine; ray: the cluster RAY_ADDRESS names, else a local one (extra 'ray')")]
LogTo = Annotated[list[str], typer.Option(
    "--log-to", help="where a training's rows go besides metrics.jsonl [any of tensorboard,trackio,wandb; repeatable]")]
IgnoreMemory = Annotated[bool, typer.Option(
    "--ignore-memory", help="train even where the plan needs more memory than there is")]
Cache = Annotated[str, typer.Option(
    "--cache", help="folder in which answers are kept and found again, by the hashes of weights and prompts; never by name")]
TranslationCache = Annotated[str, typer.Option(
    "--cache", help="folder in which translations are kept and found again (default: the user's cache folder)")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace another finished artifact that lies in --out")]


def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """An option that a command has besides its stage's settings."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


COMMON = [parameter("out", Out), parameter("device", Device, "auto"), parameter("workers", Workers, 0),
           parameter("overwrite", Overwrite, False), parameter("as_json", Json, False)]

SECOND = [one.replace(name=f"second_{one.name}") for one in parameters_of(SecondServer, "second")]
REQUESTS = parameters_of(Requests)
"""How a server is asked, for the commands that ask one; `requests_in` takes their values."""


def requests_in(options: dict[str, Any]) -> dict[str, Any]:
    """Take the values of ``REQUESTS`` out of a command's options."""
    return {name: options.pop(name) for name in Requests.model_fields}


def second_in(options: dict[str, Any]) -> dict[str, Any]:
    """Likewise of ``SECOND``."""
    return {name: options.pop(f"second_{name}") for name in SecondServer.model_fields}


def with_options(command: Callable[..., None], more: list[inspect.Parameter]) -> Callable[..., None]:
    """A command with more options, which it takes as ``**options``."""
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    command.__signature__ = inspect.Signature([*keywords, *more])  # type: ignore[attr-defined]
    return command


def machine(**options: Any) -> Machine:
    """What the options say of this machine, checked."""
    return parse(Machine, options, "options of the machine")


def emit(data: Any, text: str, as_json: bool) -> None:
    """Print a command's result, once where several processes run it together."""
    if ranks.leads():
        print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else text)


def run_stage(settings: StageSettings, out: Path, device: str, workers: int, overwrite: bool, as_json: bool,
              executor: Literal["local", "ray"] = "local", log_to: Sequence[Any] = (), ignore_memory: bool = False,
              speed: bool = False, requests: dict[str, Any] | None = None, second: dict[str, Any] | None = None,
              cache: str = "") -> None:
    """Make an artifact, and say what it holds."""
    artifact = execute(settings, out, machine(device=device, workers=workers, overwrite=overwrite, executor=executor,
                                              log_to=log_to, ignore_memory=ignore_memory, speed=speed, requests=requests or {},
                                              second=second or {}, cache=cache))
    summary = {"kind": artifact.kind, "key": artifact.key, "folder": str(artifact.path),
               "counts": artifact.manifest["counts"], "facts": artifact.manifest["facts"]}
    counts = ", ".join(f"{name} {value}" for name, value in summary["counts"].items() if not isinstance(value, dict))
    emit(summary, f"{artifact.path}: {artifact.kind} {artifact.key[:12]}{' (' + counts + ')' if counts else ''}", as_json)


def add_stage(group: typer.Typer, name: str, kind: str, run: Callable[..., None] = run_stage,
              flags: dict[str, tuple[str, ...]] | None = None, many: str = "",
              common: list[inspect.Parameter] | None = None) -> None:
    """A command whose options are a stage's settings and the ``common`` ones; `options.command_for` says how."""
    group.command(name)(command_for(settings_class(kind), run, common or COMMON, flags, many))
