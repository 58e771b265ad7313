"""Merges over a small grid, each evaluated with the same suites, and which of them no other beats: ``biomistral merge sweep``."""

import itertools
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from biomistral.artifact import input_key, inputs_of, stage_key
from biomistral.assets import locate
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.progress import log
from biomistral.recipe import Document, Machine, StageSettings, parse
from biomistral.run import execute, settings_class

MOST_POINTS = 64
_DRIFT = "drift"


@dataclass(frozen=True)
class Sweep:
    """What to sweep over: ``grid`` gives the values of ``method`` and of parameters, ``suites`` what each merge is asked."""

    config: Path
    grid: dict[str, list[str | float]]
    suites: list[str]
    out: Path
    models: dict[str, str] = field(default_factory=dict)
    protocol: str = "medconceptsqa-0shot"
    limit: int = 0
    fit_layers: bool = False
    parents: bool = True
    keep: Literal["all", "front"] = "all"
    seed: int = 0


def read_grid(items: Iterable[str]) -> dict[str, list[str | float]]:
    """``density=0.3,0.5`` and the like as values by name.

    Raises:
        UserError: no ``=``, a name twice, no values, or a value that is no number (``method`` takes words).
    """
    grid: dict[str, list[str | float]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        words = [word for word in text.split(",") if word]
        if not equals or not words or name in grid:
            raise UserError(f"--vary {item}: NAME=VALUE,VALUE,... was expected, each name once (method, density, weight, t, ...)")
        try:
            grid[name] = list(words) if name == "method" else [float(word) for word in words]
        except ValueError as error:
            raise UserError(f"--vary {item}: '{name}' takes numbers; only 'method' takes words") from error
    return grid


def variant(data: dict[str, Any], point: dict[str, str | float]) -> dict[str, Any]:
    """A merge file with a grid point's values in place of its own; a parameter it does not have is set for the whole file."""
    made: dict[str, Any] = json.loads(json.dumps(data))
    for name, value in point.items():
        if name == "method":
            made["merge_method"] = value
        elif not _replace(made, name, value):
            made["parameters"] = {**(made.get("parameters") or {}), name: value}
    return made


def _replace(node: Any, name: str, value: str | float) -> bool:
    """Set a parameter wherever a ``parameters`` mapping has it; whether one did."""
    found = False
    if isinstance(node, dict):
        parameters = node.get("parameters")
        if isinstance(parameters, dict) and name in parameters:
            parameters[name], found = value, True
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        found = _replace(child, name, value) or found
    return found


class _Runner:
    """Makes and evaluates what a sweep needs; what is there already, under the same key, is taken as it is."""

    def __init__(self, wanted: Sweep, machine: Machine) -> None:
        self.wanted, self._machine = wanted, machine.model_copy(update={"overwrite": True})
        document = Document(wanted.config)
        if not isinstance(document.data, dict):
            raise UserError(f"{wanted.config}: a merge file is a mapping; this one is not")
        self._data: dict[str, Any] = document.data
        self._suites = {_name_of(suite): suite for suite in wanted.suites}
        if len(self._suites) < len(wanted.suites):
            raise UserError("--suite: two suites are called the same; rename the folder of one")

    def points(self) -> dict[str, StageSettings]:
        """The merge of every grid point, planned, so that what cannot be merged is refused before any work."""
        from biomistral.merging.merge import plan_of

        names, combinations = list(self.wanted.grid), list(itertools.product(*self.wanted.grid.values()))
        if len(combinations) > MOST_POINTS:
            raise UserError(f"--vary: {len(combinations)} merges; a sweep takes at most {MOST_POINTS}, so give fewer values")
        found: dict[str, StageSettings] = {}
        for point in (dict(zip(names, values, strict=True)) for values in combinations):
            name = re.sub(r"[^\w.=-]+", "_", "-".join(f"{key}={value}" for key, value in point.items())) or "merge"
            path = self.wanted.out / name / "merge.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, yaml.safe_dump(variant(self._data, point), sort_keys=False, allow_unicode=True))
            settings = parse(settings_class("merge"), {
                "config": str(path), "models": self.wanted.models, "seed": self.wanted.seed,
                "fit_layers": self.wanted.fit_layers}, "options of merge sweep")
            plan_of(settings, locate)  # type: ignore[arg-type]
            found[name] = settings
        return found

    def merge(self, name: str, settings: StageSettings) -> dict[str, Any]:
        """A row of the table: the merge's scores, and its drift from the base."""
        folder = self.wanted.out / name
        key = stage_key(settings, {str(item): input_key(locate(item)) for item in inputs_of(settings)})
        remembered = folder / "row.json"
        if remembered.is_file():
            row: dict[str, Any] = json.loads(remembered.read_text(encoding="utf-8"))
            if row.pop("key") == [key, self._asked()]:
                return row
        made = execute(settings, folder / "model", self._machine)
        facts = made.manifest["facts"]
        row = {"name": name, "kind": "merge", "scores": self._scores(folder / "model", folder),
               "drift": facts["drift"][facts["base"]]}
        write_json(remembered, {**row, "key": [key, self._asked()]})
        return row

    def parent(self, name: str, place: Path, drift: float | None) -> dict[str, Any]:
        folder = self.wanted.out / "parents" / _name_of(name)
        return {"name": _name_of(name), "kind": "parent", "scores": self._scores(place, folder), "drift": drift}

    def _asked(self) -> list[Any]:
        return [self.wanted.protocol, self.wanted.limit, {name: input_key(locate(suite)) for name, suite in self._suites.items()}]

    def _scores(self, model: Path, folder: Path) -> dict[str, float]:
        scores = {}
        for name, suite in self._suites.items():
            settings = parse(settings_class("evaluate"), {
                "model": str(model), "benchmark": suite, "protocols": [self.wanted.protocol], "limit": self.wanted.limit,
                "seed": self.wanted.seed, "name": folder.name}, "options of merge sweep")
            place = execute(settings, folder / "results" / name, self._machine).path
            summary = json.loads((place / "results.json").read_text(encoding="utf-8"))["protocols"][self.wanted.protocol]
            scores[name] = float(summary["average"])
        return scores


def _name_of(place: str) -> str:
    return Path(place.rstrip("/")).stem if place.endswith((".parquet", ".jsonl")) else place.rstrip("/").rpartition("/")[2]


def run_sweep(wanted: Sweep, machine: Machine) -> list[dict[str, Any]]:
    """Merge and evaluate every point of the grid; a row each, and one a parent: name, scores by suite, drift from the base,
    and whether it is on the front.

    Run again, it goes on where it was. ``keep: front`` removes a merged model once another one beats it.

    Raises:
        UserError: the grid, the merge file, a model or a suite is not sound; every merge is planned before the first is made.
    """
    runner = _Runner(wanted, machine)
    settings = runner.points()
    rows = _parents(runner, next(iter(settings.values()))) if wanted.parents else []
    for number, (name, one) in enumerate(settings.items(), 1):
        log.info("[%d/%d] %s", number, len(settings), name)
        rows.append(runner.merge(name, one))
        mark_front(rows)
        if wanted.keep == "front":
            for row in rows:
                if row["kind"] == "merge" and not row["front"]:
                    shutil.rmtree(wanted.out / row["name"] / "model", ignore_errors=True)
        write_json(wanted.out / "sweep.json", {"grid": wanted.grid, "protocol": wanted.protocol, "limit": wanted.limit,
                                               "rows": rows})
    return rows


def _parents(runner: _Runner, settings: StageSettings) -> list[dict[str, Any]]:
    """The models that are merged, as they are; the base has drifted nowhere."""
    base = Document(runner.wanted.config).data.get("base_model")
    places = {name: locate(place) for name, place in settings.models.items()}  # type: ignore[attr-defined]
    return [runner.parent(name, place, 0.0 if name == base else None) for name, place in places.items()
            if (place / "config.json").is_file()]  # an adapter by itself answers nothing


def mark_front(rows: list[dict[str, Any]]) -> None:
    """Say of each row whether it is on the Pareto front: no other is at least as good in everything and better in something.

    More is better in every suite; with one suite alone, less drift from the base is the other thing looked at.
    """
    for row in rows:
        row["front"] = not any(_beats(other, row) for other in rows)


def _beats(other: dict[str, Any], row: dict[str, Any]) -> bool:
    theirs, mine = list(other["scores"].values()), list(row["scores"].values())
    if len(mine) == 1:
        if None in (other[_DRIFT], row[_DRIFT]):
            return False
        theirs, mine = [*theirs, -other[_DRIFT]], [*mine, -row[_DRIFT]]
    pairs = list(zip(theirs, mine, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def render(rows: list[dict[str, Any]]) -> str:
    """The table: best first by the mean of the scores; * marks the front."""
    suites = list(rows[0]["scores"])
    width = max(len(row["name"]) for row in rows)
    lines = [f"  {'':{width}}  " + "  ".join(f"{suite:>12}" for suite in suites) + f"  {'drift':>8}"]
    for row in sorted(rows, key=lambda row: (-sum(row["scores"].values()), row["name"])):
        drift = "-" if row[_DRIFT] is None else f"{row[_DRIFT]:.4f}"
        lines.append(f"{'*' if row['front'] else ' '} {row['name']:{width}}  "
                     + "  ".join(f"{row['scores'][suite]:12.2%}" for suite in suites) + f"  {drift:>8}  {row['kind']}")
    return "\n".join([*lines, "* no other is at least as good in everything and better in something"
                      + (" (score and drift from the base)" if len(suites) == 1 else "")])
