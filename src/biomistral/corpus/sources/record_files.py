"""Files of records: JSON Lines (packed or not), Parquet, and what Hugging Face's ``datasets`` saved, by pyarrow alone."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.corpus.sources.streams import DamagedError, open_unpacked
from biomistral.errors import UserError
from biomistral.records import DOCUMENT_SCHEMA

FIELDS = frozenset((*DOCUMENT_SCHEMA.names, "license"))
"""What a record may hold; other columns are not read."""
_ROWS = 64
_ARROW_FILE = b"ARROW1"

Row = dict[str, Any] | DamagedError


def rows_of(path: Path, fields: Mapping[str, str], limit: int) -> Iterator[tuple[int, Row]]:
    """The rows of a file with their numbers from 1, renamed as ``fields`` (ours -> the file's) says, or what is wrong with one.

    Raises:
        DamagedError: where the file is damaged, after all rows before that.
    """
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        found = _renamed(_parquet(path, fields) if suffix == ".parquet" else _arrow(path), fields)
    else:
        found = _renamed(_json_lines(path, limit), fields)
    for number, row in found:
        yield number, _sized(row, limit)


def _sized(row: Row, limit: int) -> Row:
    if isinstance(row, DamagedError):
        return row
    text = row.get("text")
    if not isinstance(text, str):
        return DamagedError("malformed", f"no 'text' among its fields {sorted(map(str, row))[:12]}; name the one that holds "
                            "it in the source's 'fields'")
    return DamagedError("too_large", f"over {limit >> 20} MB") if len(text) > limit else row


def _renamed(rows: Iterable[tuple[int, Row]], fields: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    for number, row in rows:
        if isinstance(row, dict) and fields:
            row = row | {ours: _field(row, theirs) for ours, theirs in fields.items()}
        yield number, row


def _field(row: dict[str, Any], name: str) -> Any:
    """A column, or with a dot what lies in one: ``meta.licence``."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    inside = row.get(outer)
    return _field(inside, inner) if isinstance(inside, dict) else None


def _json_lines(path: Path, limit: int) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(open_unpacked(path), limit):
        if line is None:
            yield number, DamagedError("too_large", f"a line of over {limit >> 20} MB")
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
                yield number, DamagedError("malformed", f"not JSON in UTF-8: {error}")
            else:
                yield number, row if isinstance(row, dict) else DamagedError("malformed", "one JSON object a line was expected")


def _lines(parts: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one longer than ``limit``, which is never held whole."""
    rest, number, too_long = b"", 1, False
    for part in parts:
        first, *others = part.split(b"\n")
        rest += first
        for other in others:
            yield number, None if too_long or len(rest) > limit else rest
            rest, number, too_long = other, number + 1, False
        if len(rest) > limit:
            rest, too_long = b"", True
    if rest or too_long:
        yield number, None if too_long else rest


def _parquet(path: Path, fields: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    wanted = FIELDS | {part for name in fields.values() for part in (name, name.partition(".")[0])}
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            yield from _numbered(file.iter_batches(batch_size=_ROWS, columns=columns or None))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(error) from error


def _arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """An Arrow file: the stream format that ``save_to_disk`` writes, or the file format."""
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
                file = pa.ipc.open_file(source)
                batches: Iterable[pa.RecordBatch] = (file.get_batch(index) for index in range(file.num_record_batches))
            else:
                source.seek(0)
                batches = pa.ipc.open_stream(source)
            yield from _numbered(part for batch in batches for part in _slices(batch))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(error) from error


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, _ROWS):
        yield batch.slice(start, _ROWS)


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Row]]:
    number = 0
    for batch in batches:
        for row in _python_rows(batch):
            number += 1
            yield number, row


def _python_rows(batch: pa.RecordBatch) -> Iterable[Row]:
    """The rows of a batch; one with a value that Python cannot hold (text that is not UTF-8, a date past 9999) is refused."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [DamagedError("malformed", f"a value that cannot be read: {error}")]
        return [row for index in range(batch.num_rows) for row in _python_rows(batch.slice(index, 1))]


def _unreadable(error: Exception) -> DamagedError:
    if isinstance(error, OSError) and error.errno:
        return DamagedError("unreadable", error.strerror or str(error))
    return DamagedError("malformed", (str(error).splitlines() or ["not readable"])[0])


def saved_dataset_files(folder: Path) -> list[str] | None:
    """The Arrow files of a folder that ``datasets.save_to_disk`` wrote (caches may lie beside them); None if it is none.

    Raises:
        UserError: its state cannot be read, or it selects rows, as versions of 2020 wrote it.
    """
    place = folder / "state.json"
    if not place.is_file():
        return None
    try:
        state = json.loads(place.read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{place}: not the state of a saved dataset ({error}); save the dataset again") from error
    if state.get("_indices_data_files"):
        raise UserError(f"{place}: this dataset selects rows by an index of its own; save it again with flatten_indices()")
    if bad := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
        raise UserError(f"{place}: names files outside its folder ({bad[0]!r})")
    return names
