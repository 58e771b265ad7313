"""A GGUF file, opened: its metadata and, one by one, its tensors as float32 (the format: ggml's ``docs/gguf.md``, version 3).

The gguf package's own reader keeps four numpy arrays for every string: of SmolLM2's file it takes 30 times as long.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomistral.errors import UserError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its shape as PyTorch counts, ggml's number of its type, bytes from the start of the file."""

    shape: tuple[int, ...]
    type: int
    start: int
    num_bytes: int


class GGUFFile:
    """Metadata (``fields``) and tensors (``tensors``) of a file."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file is not GGUF, or is truncated or corrupt.
        """
        self.path = path
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise UserError(f"{path}: not a GGUF file (it does not begin with 'GGUF')")
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._parse()
        except (ValueError, KeyError, struct.error, OverflowError) as error:
            raise UserError(f"{path}: truncated or corrupt GGUF ({str(error).splitlines()[0]}); download it again") from error

    def read(self, name: str) -> Tensor:
        """A tensor's numbers, float32, of blocks what they stand for.

        Raises:
            UserError: the file has no such tensor, or it is of a type the gguf package cannot read.
        """
        import gguf

        if name not in self.tensors:
            raise UserError(f"{self.path}: holds no tensor '{name}'; the model is incomplete, make or download it again")
        stored = self.tensors[name]
        data = np.frombuffer(self._data, np.uint8, stored.num_bytes, stored.start)
        rows = data.reshape(*stored.shape[:-1], -1)
        try:
            numbers = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(stored.type))
        except NotImplementedError as error:
            raise UserError(f"{self.path}: tensor '{name}': {error}") from error
        return torch.from_numpy(numbers.astype(np.float32)).reshape(stored.shape)

    def _parse(self) -> None:
        version, num_tensors, num_fields = self._take("<IQQ", 4)
        if version not in _VERSIONS:
            raise ValueError(f"version {version}, this reads {' and '.join(map(str, _VERSIONS))}")
        place = 24
        self.fields: dict[str, Any] = {}
        for _ in range(num_fields):
            name, place = self._string(place)
            (kind,) = self._take("<I", place)
            self.fields[name], place = self._value(kind, place + 4)
        table = []
        for _ in range(num_tensors):
            name, place = self._string(place)
            (dimensions,) = self._take("<I", place)
            *shape, kind, offset = self._take(f"<{min(dimensions, 5)}QIQ", place + 4)
            table.append((name, tuple(reversed(shape)), kind, offset))
            place += 4 + 8 * dimensions + 12
        alignment = self.fields.get("general.alignment", 32)
        start = -(-place // alignment) * alignment
        self.tensors = {name: self._tensor(name, shape, kind, start + offset) for name, shape, kind, offset in table}

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> StoredTensor:
        import gguf

        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        stored = StoredTensor(shape, kind, start, prod(shape) // block * block_bytes)
        if start + stored.num_bytes > len(self._data):
            raise ValueError(f"tensor '{name}' ends at byte {start + stored.num_bytes}, the file at {len(self._data)}")
        return stored

    def _take(self, layout: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(layout, self._data, place)

    def _string(self, place: int) -> tuple[str, int]:
        (length,) = self._take("<Q", place)
        end = place + 8 + length
        if end > len(self._data):
            raise ValueError(f"a string at byte {place} is said to be {length} bytes long")
        return self._data[place + 8:end].decode("utf-8"), end

    def _value(self, kind: int, place: int) -> tuple[Any, int]:
        """A value and the place after it."""
        if kind == _STRING:
            return self._string(place)
        if kind == _ARRAY:
            return self._array(place)
        layout = "<" + _NUMBERS[kind]
        return self._take(layout, place)[0], place + struct.calcsize(layout)

    def _array(self, place: int) -> tuple[list[Any], int]:
        kind, count = self._take("<IQ", place)
        place += 12
        if kind in _NUMBERS:
            width = struct.calcsize("<" + _NUMBERS[kind])
            if place + count * width > len(self._data):
                raise ValueError(f"an array at byte {place} is said to hold {count} numbers")
            return list(self._take(f"<{count}{_NUMBERS[kind]}", place)), place + count * width
        if kind != _STRING:
            raise ValueError(f"an array of type {kind} at byte {place}")
        values = []
        for _ in range(count):
            value, place = self._string(place)
            values.append(value)
        return values, place
