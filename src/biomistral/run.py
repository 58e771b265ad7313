"""Run one stage, or a recipe's stages in order: what is fresh is reused, what was cut off resumes."""

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral import ranks
from biomistral.artifact import Artifact, input_key, inputs_of, is_artifact, open_artifact, partial_folder, produce, stage_key
from biomistral.assets import locate
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.progress import log
from biomistral.recipe import Document, Machine, Recipe, StageSettings, load_recipe, nearest, parse

KINDS = {
    "model": "biomistral.models.settings:ModelSettings",
    "benchmark": "biomistral.benchmarks.settings:BenchmarkSettings",
    "questions": "biomistral.benchmarks.settings:OwnQuestionsSettings",
    "translate": "biomistral.translation.settings:TranslateSettings",
    "corpus": "biomistral.corpus.settings:CorpusSettings",
    "pretrain": "biomistral.training.settings:PretrainSettings",
    "finetune": "biomistral.training.settings:FinetuneSettings",
    "merge": "biomistral.merging.settings:MergeSettings",
    "quantize": "biomistral.quantization.settings:QuantizeSettings",
    "evaluate": "biomistral.evaluation.settings:EvaluateSettings",
    "select": "biomistral.evaluation.settings:SelectSettings",
    "report": "biomistral.reporting.settings:ReportSettings",
    "reported": "biomistral.reporting.settings:ImportedResultsSettings",
}
RUN_FILE = "run.json"


def settings_class(kind: str) -> type[StageSettings]:
    """The settings of a kind of stage.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of stage '{kind}'{nearest(kind, KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    found: type[StageSettings] = getattr(importlib.import_module(module), name)
    return found


def execute(settings: StageSettings, out: Path, machine: Machine | None = None) -> Artifact:
    """Make one artifact whose inputs are local paths, ``embedded:`` or ``hub:`` names."""
    places = {str(name): locate(name) for name in dict.fromkeys(inputs_of(settings))}
    return produce(settings, out, places, machine)


# ---- recipes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One artifact that a recipe makes: where, from what, and how far it is."""

    name: str
    settings: StageSettings
    out: Path
    places: dict[str, Path]
    key: str

    @property
    def state(self) -> str:
        """``fresh`` (there already), ``resume`` (cut off), ``stale`` (made from something else), or ``new``."""
        if is_artifact(self.out) and open_artifact(self.out).key == self.key:
            return "fresh"
        if partial_folder(self.out, self.key).is_dir():
            return "resume"
        return "stale" if is_artifact(self.out) else "new"


def _merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _profiled(recipe: Recipe, profile: str | None, document: Document) -> dict[str, dict[str, Any]]:
    """The recipe's stages with a profile's overrides laid over them."""
    if profile is None:
        return recipe.stages
    if profile not in recipe.profiles:
        raise UserError(f"{document.where(('profiles',))}: no profile '{profile}'{nearest(profile, recipe.profiles)}")
    overrides = recipe.profiles[profile]
    for name in overrides:
        if name not in recipe.stages:
            place = document.where(("profiles", profile, name))
            raise UserError(f"{place}: profile '{profile}' changes a stage '{name}' that is not there"
                            f"{nearest(name, recipe.stages)}")
    return {name: _merged(stage, overrides.get(name, {})) for name, stage in recipe.stages.items()}


def _expand(name: str, stage: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A stage with ``each: [a, b]`` stands for one artifact an item, ``{each}`` in its settings being the item."""
    if "each" not in stage:
        yield name, stage
        return
    items = stage["each"]
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise UserError(f"{place}: 'each' is a list of names, one artifact a name")
    for item in items:
        yield f"{name}/{item}", {key: _filled(value, item) for key, value in stage.items() if key != "each"}


def _filled(value: Any, item: str) -> Any:
    if isinstance(value, str):
        return value.replace("{each}", item)
    if isinstance(value, list):
        return [_filled(part, item) for part in value]
    if isinstance(value, dict):
        return {key: _filled(part, item) for key, part in value.items()}
    return value


class _Planner:
    """Turns a recipe into steps: settings checked, every input found, every key known before any work."""

    def __init__(self, recipe: Recipe, document: Document, run_folder: Path) -> None:
        self.recipe, self.document, self.folder = recipe, document, run_folder
        self.steps: dict[str, Step] = {}
        self._keys: dict[Path, str] = {}

    def _resolve(self, value: Any, place: str) -> Any:
        """Replace ``stage:NAME`` by that stage's folder; in a list, a stage with ``each`` gives all its folders."""
        if isinstance(value, str) and value.startswith("stage:"):
            return str(self._folder_of(value.removeprefix("stage:"), place))
        if isinstance(value, list):
            return [item for part in value for item in self._resolve_item(part, place)]
        if isinstance(value, dict):
            return {key: self._resolve(part, place) for key, part in value.items()}
        return value

    def _resolve_item(self, value: Any, place: str) -> list[Any]:
        if isinstance(value, str) and value.startswith("stage:") and value.removeprefix("stage:") not in self.steps:
            prefix = value.removeprefix("stage:") + "/"
            many = [str(step.out) for name, step in self.steps.items() if name.startswith(prefix)]
            if many:
                return many
        return [self._resolve(value, place)]

    def _folder_of(self, name: str, place: str) -> Path:
        if name not in self.steps:
            later = " (it stands later in the recipe)" if name.partition("/")[0] in self.recipe.stages else ""
            raise UserError(f"{place}: stage:{name} is no earlier stage{later}{nearest(name, self.steps)}")
        return self.steps[name].out

    def _place_of(self, name: str) -> Path:
        """Inputs of a recipe are earlier stages' folders, or looked for beside the recipe, then from the current folder."""
        if Path(name) in self._keys:
            return Path(name)
        beside = self.document.path.parent / name
        return beside.absolute() if ":" not in name and beside.exists() else locate(name)

    def _key_of(self, path: Path) -> str:
        if path not in self._keys:
            self._keys[path] = input_key(path)
        return self._keys[path]

    def add(self, name: str, stage: dict[str, Any], origin: str) -> None:
        place = self.document.where(("stages", origin))
        if "kind" not in stage:
            raise UserError(f"{place}: stage '{origin}' has no 'kind'; known: {', '.join(KINDS)}")
        try:
            model = settings_class(str(stage["kind"]))
        except UserError as error:
            raise UserError(f"{self.document.where(('stages', origin, 'kind'))}: {error}") from error
        data = {key: self._resolve(value, place) for key, value in stage.items() if key != "kind"}
        settings = parse(model, {"seed": self.recipe.seed, **data}, place, self.document, ("stages", origin))
        places, keys = {}, {}
        for item in dict.fromkeys(inputs_of(settings)):
            places[str(item)] = self._place_of(item)
            keys[str(item)] = self._key_of(places[str(item)])
        out = self.folder / name
        self._keys[out] = stage_key(settings, keys)
        self.steps[name] = Step(name, settings, out, places, self._keys[out])


def plan(path: Path, run_folder: Path, profile: str | None = None) -> list[Step]:
    """Everything a recipe would make, in order.

    Raises:
        UserError: the recipe is not sound, or an input is missing; nothing has been written.
    """
    recipe, document = load_recipe(path)
    planner = _Planner(recipe, document, run_folder.absolute())
    for origin, stage in _profiled(recipe, profile, document).items():
        for name, expanded in _expand(origin, stage, document.where(("stages", origin, "each"))):
            planner.add(name, expanded, origin)
    return list(planner.steps.values())


def default_folder(path: Path, profile: str | None) -> Path:
    """Where a recipe's artifacts go unless told otherwise: ``runs/NAME`` or ``runs/NAME-PROFILE``."""
    name = load_recipe(path)[0].name
    return Path("runs") / (f"{name}-{profile}" if profile else name)


def _claim_folder(folder: Path, path: Path, profile: str | None) -> None:
    """Make the run's folder, or see that it belongs to this recipe."""
    mine = {"recipe": load_recipe(path)[0].name, "profile": profile}
    marker = folder / RUN_FILE
    if marker.is_file():
        if (found := json.loads(marker.read_text())) != mine:
            raise UserError(f"{folder}: holds a run of {found}, this is {mine}; choose another --out")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and holds no run; choose an --out that is empty or new")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, mine)


def _forget(steps: list[Step], first: str) -> None:
    """Remove what a stage and all after it made, so that it is made again."""
    names = [step.name for step in steps]
    start = next((i for i, name in enumerate(names) if name == first or name.startswith(first + "/")), None)
    if start is None:
        raise UserError(f"--from {first}: no such stage{nearest(first, names)}")
    for step in steps[start:]:
        for folder in (step.out, partial_folder(step.out, step.key)):
            if is_artifact(folder) or folder.name.endswith(".partial"):
                shutil.rmtree(folder, ignore_errors=True)


def run_recipe(path: Path, out: Path | None = None, *, profile: str | None = None, start: str | None = None,
               dry_run: bool = False, machine: Machine | None = None) -> list[dict[str, Any]]:
    """Run a recipe's stages in order and return a row a stage: name, kind, state, key, folder, seconds.

    Fresh artifacts are reused, stale ones replaced, interrupted ones resumed. ``start`` makes that stage and all after
    it again; ``dry_run`` only says what would happen.
    """
    folder = out or default_folder(path, profile)
    steps = plan(path, folder, profile)
    if dry_run:
        return [_row(step, step.state) for step in steps]
    if ranks.leads():
        _claim_folder(folder, path, profile)
        if start is not None:
            _forget(steps, start)
    machine = (machine or Machine()).model_copy(update={"overwrite": True})
    rows = []
    for number, step in enumerate(steps, 1):
        state = step.state
        log.info("[%d/%d] %s (%s): %s", number, len(steps), step.name, step.settings.kind,
                 {"fresh": "reused", "resume": "goes on", "stale": "made again", "new": "begins"}[state])
        step.out.parent.mkdir(parents=True, exist_ok=True)
        artifact = produce(step.settings, step.out, step.places, machine)
        if state != "fresh":
            log.info("[%d/%d] %s: done in %.0f s", number, len(steps), step.name, artifact.manifest["made"]["seconds"])
        rows.append(_row(step, "reused" if state == "fresh" else "made", artifact))
    return rows


def _row(step: Step, state: str, artifact: Artifact | None = None) -> dict[str, Any]:
    row = {"stage": step.name, "kind": step.settings.kind, "state": state, "key": step.key, "folder": str(step.out)}
    if artifact is None:
        return row
    manifest = artifact.manifest
    return row | {"seconds": manifest["made"]["seconds"], "counts": manifest["counts"],
                  "findings": manifest["facts"].get("findings", [])}
