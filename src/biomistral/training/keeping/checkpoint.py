"""Checkpoints: whole or not there, hashed, the one before kept until the new one stands."""

import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.files import sha256, write_json
from biomistral.progress import log
from biomistral.training.keeping.parts import State, copy_of, num_bytes, read_state, write_state
from biomistral.training.parallel import Group


def _sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's entries, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` updates, in ``path``; ``notes`` are plain data."""

    step: int
    notes: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one run, in a folder of their own: ``step-NNNNNNNN/{shard-*.safetensors, state.json}``.

    The processes of ``writers`` hold the state between them: all call `save`, `load` and `read` together, and the first seals
    what all have written. ``asynchronous`` ones are written in a thread, from a copy.
    """

    def __init__(self, folder: Path, keep_last: int = 2, writers: Group | None = None, asynchronous: bool = False) -> None:
        self.folder, self.keep_last, self._writers = folder, keep_last, writers or Group.alone()
        self._thread = ThreadPoolExecutor(1) if asynchronous else None
        self._pending: Future[None] | None = None

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def check_space(self, wanted: int) -> None:
        """Refuse to begin a checkpoint that the disk has no room for: what there is stays as it is.

        Raises:
            UserError: fewer than ``wanted`` bytes are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < wanted:
            raise UserError(f"{self.folder}: a checkpoint takes {wanted / 1e9:.2f} GB, this disk has {free / 1e9:.2f} GB "
                            "left; free some, lower keep_last or choose another --out, then run the same command again: it "
                            "goes on from the last checkpoint")

    def save(self, step: int, state: State, notes: dict[str, Any] | None = None) -> None:
        """Write the state after ``step`` updates; only then are the oldest beyond ``keep_last`` deleted.

        An asynchronous one stands once `wait` has returned; the one before is waited for.

        Raises:
            UserError: the disk has no room.
        """
        self.wait()
        if self._writers.leads:
            self.check_space(num_bytes(state))
        if self._thread is None:
            self._write(step, state, notes or {})
        else:
            self._pending = self._thread.submit(self._write, step, copy_of(state), notes or {})

    def wait(self) -> None:
        """Until the checkpoint that is being written stands; what went wrong with it is raised here."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def look(self) -> None:
        """Raise what has gone wrong, by now, with the checkpoint that is being written."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def _write(self, step: int, state: State, notes: dict[str, Any]) -> None:
        temporary = self.folder / f".step-{step:08d}"
        if self._writers.leads:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        mine = {path.name: sha256(path) for path in write_state(temporary, state, self._writers)}
        digests = {name: digest for part in self._writers.words_of_all(mine) for name, digest in part.items()}
        if self._writers.leads:
            self._seal(temporary, {"step": step, "sha256": digests, "notes": notes})

    def _seal(self, temporary: Path, written: dict[str, Any]) -> None:
        """Every part is on the disk: name them with their hashes, and give the folder its name."""
        write_json(temporary / "state.json", written)
        _sync(temporary)
        final = self.folder / temporary.name.removeprefix(".")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(self.folder)
        for old in self._steps()[:-self.keep_last]:
            shutil.rmtree(old)

    def load(self) -> Checkpoint | None:
        """The newest sound checkpoint; a damaged one is reported, deleted, and the one before taken.

        Raises:
            UserError: not all writers see the folder of the first.
        """
        self.meet()
        names = [path.name for path in reversed(self._steps())]
        for name in self._writers.words_of_first(names):
            path = self.folder / name
            if (found := self._sound(path)) is not None:
                return found
            if self._writers.leads:
                log.warning("%s: this checkpoint is damaged and is skipped", path)
                shutil.rmtree(path)
        return None

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint after ``step`` updates; None if there is none, or it is damaged."""
        self.meet()
        return self._sound(self.folder / f"step-{step:08d}")

    def meet(self) -> None:
        """Have all writers use the first one's folder, without what it left when it was killed."""
        if self._writers.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".step-*"):
                shutil.rmtree(leftover)
        self.folder = Path(self._writers.words_of_first(str(self.folder)))
        if self._writers.largest(not self.folder.is_dir())[0]:
            raise UserError(f"{self.folder}: not all processes see this folder, and each writes its part of a checkpoint there; "
                            "put --out on a file system that all machines share, or set parallel to data")

    def _sound(self, path: Path) -> Checkpoint | None:
        """The checkpoint in a folder, or None if any byte of it is not as it was written: each process hashes its share."""
        written = self._writers.words_of_first(_seal_of(path) if self._writers.leads else None)
        sound = written is not None and _as_written(path, written["sha256"], self._writers)
        if self._writers.largest(not sound)[0] or written is None:
            return None
        return Checkpoint(int(written["step"]), written["notes"], path)

    def read(self, checkpoint: Checkpoint, state: State) -> None:
        """Fill a state, of the same names and shapes, with what a checkpoint holds."""
        read_state(checkpoint.path, state, self._writers)

    def delete(self) -> None:
        """Remove them all: the training is done and they are no part of what it made."""
        self.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _seal_of(path: Path) -> dict[str, Any] | None:
    """What ``state.json`` says: the step, the notes, the hash of each file."""
    try:
        written = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return {"step": int(written["step"]), "notes": written["notes"], "sha256": dict(written["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as_written(path: Path, digests: dict[str, str], group: Group) -> bool:
    """Whether a process's share of the files have the hashes they should, and no other is there."""
    try:
        there = {file.name for file in path.glob("*.safetensors")} == digests.keys()
        return there and all(sha256(path / name) == digests[name] for name in group.share(sorted(digests)))
    except OSError:
        return False
