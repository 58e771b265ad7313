"""Checkpoints: whole or not there, hashed, the one before kept until the new one stands."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.progress import log

FILE_BYTES = 2 << 30
"""A file of a checkpoint is closed once it holds so much."""


def _sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's entries, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` updates; ``notes`` are plain data. Tensors are read as they are asked for, by name."""

    step: int
    notes: dict[str, Any]
    files: tuple[Path, ...]

    def names(self) -> list[str]:
        """Names of the tensors, in the order of `tensors`."""
        found: list[str] = []
        for path in self.files:
            with safe_open(path, "pt") as stored:
                found += stored.keys()
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, one after the other."""
        for path in self.files:
            with safe_open(path, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118  (not a dict)
                    yield name, stored.get_tensor(name)


class Checkpoints:
    """The checkpoints of one run, in a folder of their own: ``step-NNNNNNNN/{state-NNNNN.safetensors, state.json}``."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.folder, self.keep_last = folder, keep_last

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def check_space(self, num_bytes: int) -> None:
        """Refuse to begin a checkpoint that the disk has no room for: what there is stays as it is.

        Raises:
            UserError: fewer than ``num_bytes`` are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise UserError(f"{self.folder}: a checkpoint takes {num_bytes / 1e9:.2f} GB, this disk has {free / 1e9:.2f} GB "
                            "left; free some, lower keep_last or choose another --out, then run the same command again: it "
                            "goes on from the last checkpoint")

    def save(self, step: int, tensors: Iterable[tuple[str, Tensor]], notes: dict[str, Any] | None = None) -> None:
        """Write the state after ``step`` updates; only then are the oldest beyond ``keep_last`` deleted.

        ``tensors`` are taken one after the other, and written as soon as they fill a file: a state need never be whole in
        memory.
        """
        temporary = self.folder / f".step-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {}
        for number, part in enumerate(_files_of(tensors), 1):
            path = temporary / f"state-{number:05d}.safetensors"
            save_file(part, path)
            _sync(path)
            digests[path.name] = _digest(path)
        write_json(temporary / "state.json", {"step": step, "sha256": digests, "notes": notes or {}})
        _sync(temporary)
        final = self.folder / temporary.name.removeprefix(".")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(self.folder)
        for old in self._steps()[:-self.keep_last]:
            shutil.rmtree(old)

    def load(self) -> Checkpoint | None:
        """The newest sound checkpoint; a damaged one is reported, deleted, and the one before taken."""
        for leftover in self.folder.glob(".step-*"):  # killed while it was written
            shutil.rmtree(leftover)
        for path in reversed(self._steps()):
            if (found := _read(path)) is not None:
                return found
            log.warning("%s: this checkpoint is damaged and is skipped", path)
            shutil.rmtree(path)
        return None

    def delete(self) -> None:
        """Remove them all: the training is done and they are no part of what it made."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _files_of(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Tensors in groups of about `FILE_BYTES`."""
    part: dict[str, Tensor] = {}
    for name, tensor in tensors:
        part[name] = tensor.detach().cpu().contiguous()
        if sum(held.nbytes for held in part.values()) >= FILE_BYTES:
            yield part
            part = {}
    if part:
        yield part


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint in a folder, or None if any byte of it is not as it was written."""
    try:
        written = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = {path / name: digest for name, digest in written["sha256"].items()}
        sound = all(_digest(file) == digest for file, digest in files.items())
        return Checkpoint(int(written["step"]), written["notes"], tuple(files)) if sound else None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return None
