"""Where raw documents come from: folders, archives and files, read as streams; what cannot be read becomes a refusal."""

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from biomistral.corpus.settings import SourceSettings
from biomistral.errors import UserError
from biomistral.records import read_rows

MAX_DOCUMENT_BYTES = 64 << 20
FILES_A_UNIT = 512
_BATCH_BYTES, _BATCH_ITEMS = 4 << 20, 256
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_ARTICLES = (".xml", ".nxml", ".xml.gz", ".nxml.gz")
_RECORDS = (".jsonl", ".jsonl.gz", ".parquet")
_BROKEN = (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Item:
    """A raw document: the bytes of an XML file, a record's fields, or (``reason`` set) one that could not be read."""

    name: str
    data: bytes = b""
    record: dict[str, Any] | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Unit:
    """What is read, written and resumed as one: an archive, a file of records, a list of codes, or up to 512 XML files."""

    source: int
    name: str
    kind: str
    """``archive``, ``files``, ``records`` or ``codes``."""
    files: tuple[Path, ...]
    root: Path


def source_name(source: SourceSettings, path: Path) -> str:
    """The name in the documents' ``source`` column."""
    given = str(source.input)
    return source.name or (given.partition(":")[2] if given.startswith(("embedded:", "stage:")) else path.name)


def units_of(index: int, source: SourceSettings, path: Path) -> list[Unit]:
    """The units of a source, in an order that depends only on the names in it.

    Raises:
        UserError: there is nothing in it that this type of source can read.
    """
    if source.type == "codes":
        return [Unit(index, source_name(source, path), "codes", (path,), path.parent)]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    wanted = {"auto": (*_ARCHIVES, *_ARTICLES, *_RECORDS), "jats": (*_ARCHIVES, *_ARTICLES), "records": _RECORDS}[source.type]
    files = [file for file in files if file.name.lower().endswith(wanted)]
    if not files:
        raise UserError(f"{path}: nothing here that a source of type {source.type} reads ({', '.join(wanted)})")
    articles = [file for file in files if file.name.lower().endswith(_ARTICLES)]
    units = [Unit(index, source_name(source, path), "files", tuple(articles[start:start + FILES_A_UNIT]), root)
             for start in range(0, len(articles), FILES_A_UNIT)]
    for file in files:
        kind = "archive" if file.name.lower().endswith(_ARCHIVES) else "records"
        if not file.name.lower().endswith(_ARTICLES):
            units.append(Unit(index, source_name(source, path), kind, (file,), root))
    return units


def items_of(unit: Unit) -> Iterator[Item]:
    """The raw documents of a unit, in order; never raises for what is wrong with one of them."""
    if unit.kind == "archive":
        yield from _from_archive(unit.files[0])
    elif unit.kind == "records":
        yield from _from_records(unit.files[0])
    else:
        for file in unit.files:
            yield _from_file(file, file.relative_to(unit.root).as_posix())


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in groups of about 4 MB: the work of one call of a worker."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.data)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ITEMS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _from_file(path: Path, name: str) -> Item:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
    except _BROKEN as error:
        return Item(name, reason="truncated", detail=str(error))
    return _sized(name, data, len(data))


def _sized(name: str, data: bytes, size: int) -> Item:
    if size > MAX_DOCUMENT_BYTES:
        return Item(name, reason="too_large", detail=f"over {MAX_DOCUMENT_BYTES >> 20} MB")
    return Item(name, data)


def _from_archive(path: Path) -> Iterator[Item]:
    """XML members of a tar archive, read as a stream; nothing is ever unpacked to the disk."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                unsafe = _unsafe(member)
                if unsafe:
                    yield Item(member.name, reason="unsafe_member", detail=unsafe)
                elif member.isreg() and member.name.lower().endswith(_ARTICLES):
                    yield _from_member(archive, member)
    except _BROKEN as error:
        yield Item(path.name, reason="truncated", detail=f"the archive ends early or is damaged: {error}")


def _unsafe(member: tarfile.TarInfo) -> str:
    """Why a member is refused: it points out of the archive, or is neither a file nor a folder."""
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or "\\" in member.name:
        return "its path leaves the archive"
    return "" if member.isreg() or member.isdir() else "it is a link or a device"


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Item:
    if member.size > MAX_DOCUMENT_BYTES:
        return _sized(member.name, b"", member.size)
    stream = archive.extractfile(member)
    data = stream.read() if stream is not None else b""
    if len(data) < member.size:
        raise EOFError(f"{member.name} is cut off")
    if not member.name.lower().endswith(".gz"):
        return Item(member.name, data)
    inflater = zlib.decompressobj(31)
    try:
        data = inflater.decompress(data, MAX_DOCUMENT_BYTES + 1)
    except zlib.error as error:
        return Item(member.name, reason="truncated", detail=str(error))
    if not inflater.eof and len(data) <= MAX_DOCUMENT_BYTES:
        return Item(member.name, reason="truncated", detail="the compressed data ends early")
    return _sized(member.name, data, len(data))


def _from_records(path: Path) -> Iterator[Item]:
    """One item a row; its name is the row's ``id``, else its number."""
    if path.suffix.lower() == ".parquet":
        try:
            for number, row in enumerate(read_rows(path, batch=256), 1):
                yield _record(f"{path.name}:{number}", row)
        except (UserError, pa.ArrowException, OSError) as error:
            yield Item(path.name, reason="malformed", detail=str(error).splitlines()[0])
        return
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_DOCUMENT_BYTES), b""), 1):
                if line.strip():
                    yield _parsed(f"{path.name}:{number}", line)
    except _BROKEN as error:
        yield Item(path.name, reason="truncated", detail=str(error))


def _parsed(name: str, line: bytes) -> Item:
    try:
        return _record(name, json.loads(line))
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        return Item(name, reason="malformed", detail=f"not JSON in UTF-8: {error}")


def _record(name: str, row: Any) -> Item:
    if not isinstance(row, dict):
        return Item(name, reason="malformed", detail="one JSON object a line was expected")
    if not isinstance(row.get("text"), str):
        return Item(name, reason="malformed", detail=f"no 'text' among its fields {sorted(map(str, row))[:12]}")
    return Item(name, record=row)
