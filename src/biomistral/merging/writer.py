"""Weight files whose layout is known before the first number: header first, then every tensor at its own offset.

A journal names the tensors that are whole, so that work that was cut off goes on with the next one.
"""

import ctypes
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomistral.files import remember_digest, write_json
from biomistral.merging.digest import RunningDigest
from biomistral.merging.planned import PlannedTensor
from biomistral.recipe import canonical_hash

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Place:
    """Where a tensor of the result goes; ``offset`` counts from the start of the file."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """All weight files of the result: their headers, their sizes, and every tensor's place."""

    headers: dict[str, bytes]
    sizes: dict[str, int]
    places: dict[str, Place]


def lay_out(tensors: list[PlannedTensor], max_shard_bytes: int) -> Layout:
    """Fill files in order up to ``max_shard_bytes`` each (a larger tensor gets a file of its own)."""
    shards: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(one.nbytes for one in shards[-1]) + tensor.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    layout = Layout({}, {}, {})
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _lay_out_shard(layout, name, shard)
    return layout


def _lay_out_shard(layout: Layout, name: str, tensors: list[PlannedTensor]) -> None:
    """Wider types first, so that every tensor is aligned to its own type."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    for tensor in sorted(tensors, key=lambda tensor: -tensor.out_dtype.itemsize):
        places[tensor.name] = (end, tensor.nbytes)
        entries[tensor.name] = {"dtype": tensor.out_dtype.name, "shape": list(tensor.shape),
                                "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    layout.headers[name], layout.sizes[name] = header, len(header) + end
    layout.places.update({tensor: Place(name, len(header) + offset, nbytes) for tensor, (offset, nbytes) in places.items()})


def write_index(folder: Path, layout: Layout) -> None:
    """The index Hugging Face reads where there is more than one weight file."""
    if len(layout.headers) > 1:
        total = sum(size - len(layout.headers[name]) for name, size in layout.sizes.items())
        write_json(folder / "model.safetensors.index.json", {
            "metadata": {"total_size": total}, "weight_map": {name: place.file for name, place in layout.places.items()}})


class Journal:
    """One line for each tensor that is wholly written, with what is reported of it.

    It is believed only within one boot of the machine: a killed process leaves its writes to the kernel, a lost power
    supply does not.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else os.urandom(16).hex()
        self._path = path
        self._head = {"boot": boot, "layout": canonical_hash({name: header.hex() for name, header in layout.headers.items()})}
        self.done = self._load()
        if not self.done:
            path.write_text(json.dumps(self._head) + "\n")

    def _load(self) -> dict[str, dict[str, Any]]:
        """Tensors finished earlier; nothing if the journal speaks of other work. A torn last line does not count."""
        if not self._path.is_file():
            return {}
        lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        if lines[0] != json.dumps(self._head):
            return {}
        if lines[-1]:
            with self._path.open("a") as stream:
                stream.write("\n")
        rows = []
        for line in lines[1:]:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return {row["name"]: row for row in rows if isinstance(row, dict)}

    def add(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.done[row["name"]] = row


class Writer:
    """Writes chunks at their places in files that are as long as they will be from the start, and hashes the files on the way."""

    def __init__(self, folder: Path, layout: Layout, fresh: bool) -> None:
        self._folder, self._layout = folder, layout
        self._files: dict[str, int] = {}
        self._digests: dict[str, RunningDigest] = {}
        for name, size in layout.sizes.items():
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0), 0o644)
            self._files[name] = descriptor
            if fresh:
                reserve(descriptor, size)
            os.ftruncate(descriptor, size)
            os.pwrite(descriptor, layout.headers[name], 0)
            self._digests[name] = RunningDigest(descriptor, layout.headers[name])

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Write ``values`` as the elements from ``start`` on of the flattened tensor."""
        place, data = self._layout.places[name], memoryview(np.ascontiguousarray(values)).cast("B")
        offset = place.offset + start * values.itemsize
        self._digests[place.file].wrote(offset, data)
        while data:
            done = os.pwrite(self._files[place.file], data, offset)
            data, offset = data[done:], offset + done

    def finish(self, name: str) -> None:
        """Note that a tensor is whole."""
        place = self._layout.places[name]
        self._digests[place.file].finished(place.offset, place.offset + place.nbytes)

    def close(self) -> None:
        for name, digest in self._digests.items():
            if digest.end == self._layout.sizes[name]:
                remember_digest(self._folder / name, digest.hexdigest())
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._digests.clear()


def reserve(descriptor: int, size: int) -> None:
    """Give a new file its room on the disk at once, where kernel and file system can: a full disk then shows before the work.

    Not ``os.posix_fallocate``, which writes into every block where the file system cannot.

    Raises:
        OSError: the disk has no room for it.
    """
    allocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if allocate is None:
        return
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(size))
    if allocate(*arguments) and (number := ctypes.get_errno()) == errno.ENOSPC:
        raise OSError(number, os.strerror(number))
