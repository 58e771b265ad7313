"""Artifacts: folders that are finished if and only if ``manifest.json`` is there.

An artifact is made in a sibling folder whose name carries its key, so that interrupted work is found again and resumed,
and renamed when its manifest, written last, is on the disk. The key is a hash of the stage's settings, of what its
inputs hold and of the stage's code version: never of a place or a name.
"""

import datetime
import errno
import fcntl
import importlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from biomistral import __version__, ranks
from biomistral.errors import UserError
from biomistral.files import content_digest, file_digest, files_under, write_json
from biomistral.memory import lasting_imports
from biomistral.readme import README
from biomistral.recipe import Input, Machine, Settings, StageSettings, canonical_hash, plain

MANIFEST = "manifest.json"
SCHEMA = 2
_VERSIONS_OF = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "lxml", "peft", "gguf")


# ---- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A finished folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])


def is_artifact(path: Path) -> bool:
    """Whether a finished artifact lies here."""
    return (path / MANIFEST).is_file()


def open_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Open a finished artifact.

    Raises:
        UserError: nothing is there, it is unfinished, its manifest cannot be read, or it is of another kind.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        what = "no such folder" if not path.exists() else f"not a finished artifact: it has no {MANIFEST}"
        raise UserError(f"{path}: {what}")
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
        artifact = Artifact(path, data)
        found, schema = artifact.kind, data["schema"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: cannot be read as a manifest ({error}); make the artifact again") from error
    if schema != SCHEMA:
        raise UserError(f"{manifest}: manifest schema {schema}, this version reads {SCHEMA}; make the artifact again")
    if kind is not None and found != kind:
        raise UserError(f"{path}: holds an artifact of kind {found}; one of kind {kind} is needed here")
    return artifact


def verify(artifact: Artifact) -> list[str]:
    """Problems found when every file is compared with its hash in the manifest; empty if all is as it was made."""
    problems = []
    for name, expected in artifact.manifest["files"].items():
        file = artifact.path / name
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif file_digest(file) != expected["blake3"]:
            problems.append(f"{file}: differs from the hash in the manifest")
    return problems


# ---- inputs and keys ------------------------------------------------------------------------------------------------


def inputs_of(value: Any) -> Iterator[Input]:
    """Every `Input` inside settings, in order."""
    if isinstance(value, Input):
        yield value
    elif isinstance(value, Settings):
        for name in type(value).model_fields:
            yield from inputs_of(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from inputs_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from inputs_of(item)


def _with_keys(value: Any, keys: dict[str, str]) -> Any:
    """Plain settings in which every input is replaced by the key of what it holds."""
    if isinstance(value, Input):
        return {"input": keys[value]}
    if isinstance(value, Settings):
        return {name: _with_keys(getattr(value, name), keys) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(name): _with_keys(item, keys) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_keys(item, keys) for item in value]
    return plain(value)


def stage_key(settings: StageSettings, keys: dict[str, str]) -> str:
    """The key of an artifact: hash of its kind, the stage's code version, its settings and its inputs' keys."""
    return canonical_hash({"kind": settings.kind, "version": settings.version, "settings": _with_keys(settings, keys)})


def input_key(path: Path) -> str:
    """The key of an input: its own if it is an artifact, else the hash of its content."""
    return open_artifact(path).key if is_artifact(path) else content_digest(path)


def _ancestor(artifact: Artifact) -> dict[str, Any]:
    kept = ("kind", "version", "settings", "inputs", "counts", "licences", "facts", "content")
    return {**{name: artifact.manifest[name] for name in kept}, "path": str(artifact.path)}


# ---- making ---------------------------------------------------------------------------------------------------------


@dataclass
class Workspace:
    """What a stage works in: its folder, its settings, its inputs, and the notes that go into the manifest."""

    path: Path
    settings: Any
    machine: Machine
    key: str
    places: Mapping[str, Path]
    counts: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    """Licence -> how many documents, vocabularies or models came under it."""
    facts: dict[str, Any] = field(default_factory=dict)

    def locate(self, name: str) -> Path:
        """Where the input that a setting names lies on this machine."""
        return self.places[name]


def partial_folder(out: Path, key: str) -> Path:
    """Where the artifact with this key is made before it is renamed to ``out``."""
    return out.with_name(f".{out.name}.{key[:16]}.partial")


def _claim(folder: Path) -> Any:
    """Lock the working folder, so that two processes never write into it; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{folder}: another process is making this artifact; wait for it or stop it") from error
    return lock


def check_free(out: Path, key: str, overwrite: bool) -> Artifact | None:
    """The artifact itself if it is there already, None if ``out`` can be written.

    Raises:
        UserError: ``out`` holds something else, or another artifact and ``overwrite`` is off.
    """
    if is_artifact(out):
        found = open_artifact(out)
        if found.key == key:
            return found
        if not overwrite:
            raise UserError(f"{out}: holds another {found.kind} artifact (key {found.key[:12]}, this one is {key[:12]}); "
                            "choose another --out, or replace it with --overwrite")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists and is not an artifact; choose an --out that is empty or new")
    return None


def produce(settings: StageSettings, out: Path, places: Mapping[str, Path], machine: Machine | None = None) -> Artifact:
    """Make an artifact in ``out``, or return the one that is already there.

    ``places`` maps each input of the settings to where it lies. Work cut off earlier is resumed: the stage's function
    finds in its folder what it had written there under the same key. Under torchrun the first process does all this; the
    others run the stage's function beside it if the stage's settings say so, and otherwise wait.

    Raises:
        UserError: see `check_free`; another process is at work on it; the disk is full; the stage refused its input.
    """
    machine = machine or Machine()
    out = out.absolute()
    entries = [{"name": str(name), "key": input_key(places[name]), "path": str(places[name].absolute())}
               for name in dict.fromkeys(inputs_of(settings))]
    key = stage_key(settings, {entry["name"]: entry["key"] for entry in entries})
    call = ranks.Call()
    if not ranks.leads():
        return _help(call, settings, out, places, machine, key)
    word = "failed"
    try:
        artifact = _lead(call, settings, out, places, machine, key, entries)
        word = "done"
    finally:
        call.end(word)
    return artifact


def _help(call: ranks.Call, settings: StageSettings, out: Path, places: Mapping[str, Path], machine: Machine,
          key: str) -> Artifact:
    """The part of a process other than the first: what it writes goes to a folder that is then thrown away."""
    if call.heard("begin") == "help":
        with tempfile.TemporaryDirectory(prefix="biomistral-") as scratch, suppress(ranks.Dismissed):
            try:
                _function(settings.make)(Workspace(Path(scratch), settings, machine, key, places))
            except UserError:
                call.let_first_end()
                raise
    call.heard("end")
    return open_artifact(out)


def _lead(call: ranks.Call, settings: StageSettings, out: Path, places: Mapping[str, Path], machine: Machine, key: str,
          entries: list[dict[str, Any]]) -> Artifact:
    """`produce` in the first process, or the only one."""
    if (found := check_free(out, key, machine.overwrite)) is not None:
        return found
    folder = partial_folder(out, key)
    lock = _claim(folder)
    try:
        with _full_disk_is_said(folder):
            if not is_artifact(folder):
                work = Workspace(folder, settings, machine, key, places)
                started = time.time()
                if settings.together:
                    call.help()
                _function(settings.make)(work)
                _seal(work, entries, started)
            (folder / ".lock").unlink()
            _publish(folder, out)
    except UserError:
        if not any(files_under(folder)):  # refused before any work: leave nothing behind
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.close()
    return open_artifact(out)


@contextmanager
def _full_disk_is_said(folder: Path) -> Iterator[None]:
    """A full disk is the user's to mend: one line; what has been written stays, to go on from."""
    from safetensors import SafetensorError  # reports a full disk in words of its own, not as an OSError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left on device" not in str(error):
            raise
        free = shutil.disk_usage(folder.parent).free
        raise UserError(f"{folder.parent}: no space left on this disk ({free / 1e6:.0f} MB free); free some or choose "
                        "another --out, then run the same command again: it goes on from here") from error


def _function(name: str) -> Any:
    """The function that ``module:function`` names; its module is imported now, not before."""
    module, _, function = name.partition(":")
    with lasting_imports():
        return getattr(importlib.import_module(module), function)


def _seal(work: Workspace, entries: list[dict[str, Any]], started: float) -> None:
    """Hash every file and write the manifest, last; what a killed process left half-written is no part of it."""
    for leftover in work.path.rglob(".*.tmp"):
        leftover.unlink()
    ancestors: dict[str, Any] = {}
    for entry in entries:
        place = work.places[entry["name"]]
        if is_artifact(place):
            parent = open_artifact(place)
            entry["content"] = parent.manifest["content"]
            ancestors |= parent.manifest["ancestors"] | {parent.key: _ancestor(parent)}
        else:
            entry["content"] = entry["key"]
    mode = work.path.stat().st_mode & 0o666  # as the user's umask has it; safetensors makes its files 0600
    for file in files_under(work.path):
        if file.stat().st_mode & 0o777 != mode:  # changing nothing would still make a file look changed
            file.chmod(mode)
    files = {name: {"bytes": file.stat().st_size, "blake3": file_digest(file)} for file in files_under(work.path)
             if (name := file.relative_to(work.path).as_posix()) != README}
    body = {"schema": SCHEMA, "kind": work.settings.kind, "key": work.key, "version": work.settings.version,
            "settings": plain(work.settings), "inputs": entries, "counts": plain(work.counts),
            "licences": plain(work.licences), "facts": plain(work.facts), "files": files}
    content = canonical_hash({"kind": work.settings.kind, "files": {name: entry["blake3"] for name, entry in files.items()}})
    write_json(work.path / MANIFEST, {**body, "content": content, "made": _made(started), "ancestors": ancestors})


def _made(started: float) -> dict[str, Any]:
    packages = {}
    for name in _VERSIONS_OF:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"biomistral": __version__, "python": platform.python_version(), "packages": packages,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 1)}


def _publish(folder: Path, out: Path) -> None:
    """Put the finished folder in its place; a stale artifact there goes only once the new one stands."""
    old = None
    if out.exists():
        if is_artifact(out):
            old = out.with_name(f".{out.name}.{os.getpid()}.old")
            out.rename(old)
        else:
            out.rmdir()
    folder.rename(out)
    for leftover in [*out.parent.glob(f".{out.name}.*.partial"), *([old] if old else [])]:
        shutil.rmtree(leftover, ignore_errors=True)
