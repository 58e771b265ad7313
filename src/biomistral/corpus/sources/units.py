"""Where raw documents come from: folders, archives and files, read as streams; what cannot be read becomes a refusal."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources.archives import ARTICLES, articles_in, readable, too_large, whole
from biomistral.corpus.sources.article_sets import ArticleSplitter, is_article_set
from biomistral.corpus.sources.filelists import FileList, list_beside
from biomistral.corpus.sources.listing import files_below
from biomistral.corpus.sources.record_files import rows_of
from biomistral.corpus.sources.streams import DamagedError, open_unpacked
from biomistral.errors import UserError
from biomistral.progress import log

FILES_A_UNIT = 512
_ALONE_FROM = 16 << 20
"""A larger file of articles is a unit of its own: it can be a dump of thousands."""
_BATCH_BYTES, _BATCH_ITEMS = 4 << 20, 256
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_RECORDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".parquet", ".arrow")
_DATED = re.compile(r"\.(\d{4}-\d\d-\d\d)\.")


@dataclass(frozen=True)
class Item:
    """A raw document: the bytes of an article, a record's fields, or (``reason`` set) one that could not be read."""

    name: str
    data: bytes = b""
    record: dict[str, Any] | None = None
    reason: str = ""
    detail: str = ""
    updated: str = ""
    """When it last changed, ``YYYY-MM-DD HH:MM:SS`` or a day; of two with one id the later (as text) is the newer."""
    statements: tuple[str, ...] = ()
    """What others than the document itself say of its licence."""


@dataclass(frozen=True)
class Unit:
    """What is read, written and resumed as one: an archive, a file of records, a list of codes, or up to 512 XML files."""

    source: int
    name: str
    kind: str
    """``archive``, ``files``, ``records`` or ``codes``."""
    root: Path
    paths: str
    """Its files, relative to ``root``, with NUL between them: as `Path` objects, 6 million would take 3 GB."""
    bytes: int
    """How large its files are, as they lie on the disk."""
    limit: int
    """Most bytes a document."""
    fields: dict[str, str] = field(default_factory=dict)
    """Columns of records: our name -> the file's."""
    filelist: str = ""
    """Name of the file list beside an archive, where that is part of the source."""

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in self.paths.split("\0"))


def source_name(source: SourceSettings, path: Path) -> str:
    """The name in the documents' ``source`` column."""
    given = str(source.input)
    return source.name or (given.partition(":")[2] if given.startswith(("embedded:", "stage:")) else path.name)


def units_of(index: int, source: SourceSettings, path: Path) -> list[Unit]:
    """The units of a source, in an order that depends only on the names in it: articles, then archives and records.

    Raises:
        UserError: there is nothing in it that this type of source can read, or a file list or saved dataset is no such thing.
    """
    def unit(kind: str, names: list[str], size: int) -> Unit:
        fields = {str(ours): theirs for ours, theirs in source.fields.items()}
        filelist = _file_list(root / names[0], path) if kind == "archive" else ""
        return Unit(index, source_name(source, path), kind, root, "\0".join(names), size, source.max_document_mb << 20, fields,
                    filelist)

    root = path if path.is_dir() else path.parent
    if source.type == "codes":
        root = path.parent
        return [unit("codes", [path.name], path.stat().st_size if path.is_file() else 0)]
    wanted = {"auto": (*_ARCHIVES, *ARTICLES, *_RECORDS), "jats": (*_ARCHIVES, *ARTICLES), "records": _RECORDS}[source.type]
    units, rest, names, size = list[Unit](), list[Unit](), list[str](), 0
    for name, length in files_below(path, wanted):
        if not name.lower().endswith(ARTICLES):
            rest.append(unit("archive" if name.lower().endswith(_ARCHIVES) else "records", [name], length))
        elif length >= _ALONE_FROM:
            units.append(unit("files", [name], length))
        else:
            names.append(name)
            size += length
        if len(names) == FILES_A_UNIT:
            units.append(unit("files", names, size))
            names, size = [], 0
    units += [unit("files", names, size)] if names else []
    if not units and not rest:
        raise UserError(f"{path}: nothing here that a source of type {source.type} reads ({', '.join(wanted)})")
    return units + rest


def _file_list(package: Path, source: Path) -> str:
    """The name of the file list beside a package; one that is none is refused before any work."""
    beside = list_beside(package)
    if beside and source.is_dir():
        FileList(beside)
        return beside.name
    if beside:
        log.warning("%s: not read, since only %s is the source; give the folder of both to refuse what is retracted",
                    beside.name, package.name)
    return ""


def items_of(unit: Unit) -> Iterator[Item]:
    """The raw documents of a unit, in order; never raises for what is wrong with one of them."""
    for name, path in zip(unit.paths.split("\0"), unit.files, strict=True):
        if unit.kind == "archive":
            yield from _all(readable(path.name), _from_archive(unit))
        elif unit.kind == "records":
            yield from _all(readable(path.name), _from_records(path, unit.fields, unit.limit))
        else:
            yield from _all(readable(name), _from_file(path, readable(name), unit.limit))


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in groups of about 4 MB: the work of one call of a worker."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.data) if item.record is None else len(item.record["text"])
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ITEMS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _item(name: str, data: bytes | DamagedError) -> Item:
    return Item(name, data) if isinstance(data, bytes) else Item(name, reason=data.reason, detail=str(data))


def _all(name: str, items: Iterator[Item]) -> Iterator[Item]:
    """The items of a file; then, as one more, that it is damaged from here on, or that there were none."""
    count = 0
    try:
        for item in items:
            yield item
            count += 1
    except DamagedError as error:
        yield _item(name, error)
    else:
        if not count:
            yield Item(name, reason="empty", detail="nothing to read in it")


def _from_file(path: Path, name: str, limit: int) -> Iterator[Item]:
    """One article, or all of an article set."""
    parts = open_unpacked(path)
    head = next(parts, b"")
    if not is_article_set(head):
        yield _item(name, whole(parts, limit, head))
        return
    for number, data in enumerate(ArticleSplitter(limit).split(head, parts), 1):
        yield _item(f"{name}#{number}", too_large(limit) if data is None else data)


def _from_archive(unit: Unit) -> Iterator[Item]:
    """The articles of an archive, with what the file list beside it says of them."""
    path = unit.files[0]
    dated = _DATED.search(path.name)
    try:
        known = FileList(path.with_name(unit.filelist)) if unit.filelist else None
    except (UserError, OSError) as error:  # it was there and sound before; without it, what is retracted would pass
        raise DamagedError("unreadable", f"its file list: {error}") from error
    for member, data in articles_in(path, unit.limit):
        updated, retracted, licence = (known and known.look_up(member)) or ("", False, "")
        item = _item(member, DamagedError("retracted", f"so says {unit.filelist}") if retracted else data)
        yield replace(item, updated=updated or (dated[1] if dated else ""),
                      statements=(licence,) if licence.startswith("CC") else ())


def _from_records(path: Path, fields: dict[str, str], limit: int) -> Iterator[Item]:
    """One item a row, named by its number."""
    for number, row in rows_of(path, fields, limit):
        name = f"{readable(path.name)}:{number}"
        yield _item(name, row) if isinstance(row, DamagedError) else Item(name, record=row)
