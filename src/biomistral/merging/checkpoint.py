"""A model's weights on disk: what lies where, and looking at any part of a tensor."""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.merging.floats import Float, widen
from biomistral.merging.mapped import MappedFile
from biomistral.models.folder import read_config, weight_files

_LAYER = re.compile(r"^(?P<stack>(?:[^.]+\.)*?(?:layers|h|blocks))\.(?P<index>\d+)\.(?P<rest>.+)$")
_NOT_WEIGHTS = ("rotary_emb.inv_freq",)
"""Buffers that old checkpoints carry although the model computes them."""
_SHOWN = 4 << 20
"""Bytes of a file that a slot holds before it lets go of them."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie; ``offset`` counts from the start of the file."""

    file: Path
    dtype: Float
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, checked against the file's length.

    Raises:
        UserError: the file is truncated, corrupt or holds a type that cannot be merged; the message names the tensor.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise UserError(f"{path}: truncated: {size} bytes do not hold its header; download or make it again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            spans = {name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: corrupt: its header cannot be read ({error}); download or make it again") from error
    return {name: _stored(path, name, span, 8 + length, size) for name, span in spans.items()}


def _stored(path: Path, name: str, span: tuple[Any, ...], data: int, size: int) -> StoredTensor:
    dtype, shape, start, end = span
    if dtype not in Float.__members__:
        raise UserError(f"{path}: tensor {name} is {dtype}: this model looks quantised; only {', '.join(Float.__members__)} can "
                        "be merged, so merge first and quantise the result")
    stored = StoredTensor(path, Float[dtype], shape, data + start)
    if start < 0 or end - start != stored.nbytes:
        raise UserError(f"{path}: corrupt: tensor {name} of shape {list(shape)} in {dtype} has {end - start} bytes, not "
                        f"{stored.nbytes}; download or make it again")
    if data + end > size:
        raise UserError(f"{path}: truncated: tensor {name} ends at byte {data + end}, the file has {size}; download or make it "
                        "again")
    return stored


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its config and its weights, ``stack`` being the name before the layer number (``model.layers``)."""

    name: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    stack: str
    depth: int

    def layer_tensors(self, index: int) -> dict[str, str]:
        """Name within the layer -> whole name, of one layer."""
        start = f"{self.stack}.{index}."
        return {name.removeprefix(start): name for name in self.tensors if name.startswith(start)}

    @property
    def outer_tensors(self) -> list[str]:
        """Tensors outside the layers: embeddings, final norm, head."""
        return [name for name in self.tensors if not name.startswith(self.stack + ".")]

    @property
    def tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings", "lm_head.weight" not in self.tensors))


def open_checkpoint(name: str, folder: Path) -> Checkpoint:
    """Read the headers of a model folder.

    Raises:
        UserError: not a model folder; weights missing, truncated, corrupt or of a type that cannot be merged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: model '{name}' must be a folder with config.json and safetensors files")
    config = read_config(folder)
    try:
        files = weight_files(folder)
    except UserError:
        for path in sorted(folder.glob("*.safetensors")):  # say which tensor is cut, if that is what is wrong
            read_header(path)
        raise
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for tensor, stored in read_header(path).items():
            if tensor in tensors:
                raise UserError(f"{path}: tensor {tensor} is also in {tensors[tensor].file.name}; which one counts?")
            if not tensor.endswith(_NOT_WEIGHTS):
                tensors[tensor] = stored
    _check_index(folder, tensors)
    stack, depth = _layers(folder, config, tensors)
    return Checkpoint(name, folder, config, tensors, stack, depth)


def _check_index(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
        if name not in tensors and not name.endswith(_NOT_WEIGHTS):
            raise UserError(f"{folder / file}: has no tensor {name}, though {index.name} says so; download it again")


def _layers(folder: Path, config: dict[str, Any], tensors: dict[str, StoredTensor]) -> tuple[str, int]:
    found: dict[str, set[int]] = {}
    for name in tensors:
        if match := _LAYER.match(name):
            found.setdefault(match["stack"], set()).add(int(match["index"]))
    if len(found) != 1:
        raise UserError(f"{folder}: one stack of decoder layers was expected, found {sorted(found) or 'none'}; only decoder-only "
                        "language models can be merged")
    stack, indices = found.popitem()
    depth = config.get("num_hidden_layers", config.get("n_layer", len(indices)))
    missing = set(range(depth)) - indices
    if missing or len(indices) != depth:
        what = f"no tensor of {stack}.{min(missing)}" if missing else f"{len(indices)} layers of tensors"
        raise UserError(f"{folder}: config.json says {depth} layers, but the weights hold {what}")
    return stack, depth


class Reader:
    """Shows parts of tensors, one a slot at a time; the memory of those before is let go."""

    def __init__(self, slots: int) -> None:
        self._files: dict[Path, MappedFile] = {}
        self._shown: list[tuple[MappedFile, int, int] | None] = [None] * slots
        self._kept: dict[StoredTensor, np.ndarray] = {}

    def keep(self, name: str, stored: StoredTensor) -> np.ndarray:
        """A small tensor as a whole, flat and in float32, remembered until others have taken its place.

        Raises:
            UserError: the file became shorter since the plan was made.
        """
        if stored not in self._kept:
            while len(self._kept) >= 4 * len(self._shown):
                del self._kept[next(iter(self._kept))]
            whole = self._look(name, stored, stored.offset, stored.nbytes).copy()
            self._kept[stored] = widen(whole.view(stored.dtype.storage), stored.dtype)
        return self._kept[stored]

    def read(self, slot: int, name: str, stored: StoredTensor, start: int, count: int) -> np.ndarray:
        """Elements ``start`` to ``start + count`` of the flattened tensor, in its storage and not to be written to; valid until
        the slot is read again.

        Raises:
            UserError: the file became shorter since the plan was made.
        """
        size = stored.dtype.itemsize
        offset = stored.offset + start * size
        part = self._look(name, stored, offset, count * size)
        self._show(slot, self._files[stored.file], offset, offset + len(part))
        if offset % size:  # nothing forbids it, and some processors cannot read such numbers
            part = part.copy()
        found: np.ndarray = part.view(stored.dtype.storage)
        return found

    def _show(self, slot: int, file: MappedFile, start: int, end: int) -> None:
        """Note what a slot shows; what it showed before is let go, a few megabytes at a time."""
        if before := self._shown[slot]:
            if file is before[0] and start == before[2] and end - before[1] <= _SHOWN:
                start = before[1]
            else:
                before[0].let_go(*before[1:])
        self._shown[slot] = file, start, end

    def _look(self, name: str, stored: StoredTensor, offset: int, count: int) -> np.ndarray:
        if stored.file not in self._files:
            self._files[stored.file] = MappedFile(stored.file)
        part = self._files[stored.file].look(offset, count)
        if part is None:
            raise UserError(f"{stored.file}: ended inside tensor {name}; it changed while it was read, start again")
        return part

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._shown.clear()
