"""Checkpoints: whole or not there, hashed, the one before kept until the new one stands."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from biomistral.files import write_json
from biomistral.progress import log

KEPT = 2


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


class Checkpoints:
    """The checkpoints of one run, in a folder of their own: ``step-NNNNNNNN/{state.safetensors, state.json}``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the state after ``step`` updates; only then is the oldest of more than two deleted."""
        temporary = self.folder / f".step-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        state = temporary / "state.safetensors"
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, state)
        _sync(state)
        write_json(temporary / "state.json", {"step": step, "sha256": _digest(state)})
        _sync(temporary)
        final = self.folder / temporary.name.removeprefix(".")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(self.folder)
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old)

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest sound checkpoint as (step, tensors); a damaged one is reported, deleted, and the one before taken."""
        for path in reversed(self._steps()):
            try:
                written = json.loads((path / "state.json").read_text(encoding="utf-8"))
                sound = written["sha256"] == _digest(path / "state.safetensors")
            except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                sound = False
            if sound:
                return int(written["step"]), load_file(path / "state.safetensors")
            log.warning("%s: this checkpoint is damaged and is skipped", path)
            shutil.rmtree(path)
        return None

    def delete(self) -> None:
        """Remove them all: the training is done and they are no part of what it made."""
        shutil.rmtree(self.folder, ignore_errors=True)
