"""A GGUF file written whole or not at all: metadata first, then one tensor after the other, never two in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from biomistral.errors import UserError
from biomistral.models.gguf_file import GGUFFile
from biomistral.progress import track
from biomistral.quantization.gguf.blocks import Storage, encode


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: where it is in the model, its name in the file, and how to get at its values."""

    source: str
    name: str
    shape: tuple[int, ...]
    storage: Storage
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return self.storage.num_bytes(self.shape)


def write_gguf(path: Path, architecture: str, fields: dict[str, Any], entries: Sequence[Entry], where: object) -> None:
    """Write the file under another name, read it back, and give it its own: a file named ``path`` is whole.

    Raises:
        UserError: a tensor holds NaN, or numbers that its type has no place for.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write(temporary, architecture, fields, entries, where)
        _check(GGUFFile(temporary), fields, entries)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, architecture: str, fields: dict[str, Any], entries: Sequence[Entry], where: object) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        _add(writer, name, value)
    for entry in entries:
        row_bytes = entry.storage.row_bytes(entry.shape[-1])
        writer.add_tensor_info(entry.name, (*entry.shape[:-1], row_bytes), np.dtype(np.uint8), entry.num_bytes,
                               raw_dtype=gguf.GGMLQuantizationType[entry.storage.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for entry in track(entries, f"writing {path.name.removeprefix('.').removesuffix('.tmp')}"):
            writer.write_tensor_data(_encoded(entry, where).numpy())
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_string(name, value)


def _encoded(entry: Entry, where: object) -> Tensor:
    try:
        return encode(entry.read(), entry.storage)
    except ValueError as error:
        raise UserError(f"{where}: tensor '{entry.source}' {error}") from error


def _check(file: GGUFFile, fields: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Every field, token by token, and every tensor's place must be in the file as they were meant."""
    for name, value in fields.items():
        expected = np.float32(value).item() if isinstance(value, float) else value
        assert file.fields[name] == expected, f"{file.path}: '{name}' was not written as it is"
    sizes = {entry.name: (entry.shape, entry.num_bytes) for entry in entries}
    assert {name: (stored.shape, stored.num_bytes) for name, stored in file.tensors.items()} == sizes
