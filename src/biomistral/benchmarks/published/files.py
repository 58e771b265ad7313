"""Published question files as rows: JSON (a list, an object of records, or one object a line), CSV, Parquet."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.records import read_rows

Row = dict[str, Any]
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
KEY = "(key)"
"""Field of a row that was a value in an object of records: its name there."""
VALUE = "(value)"
_SPLITS = {"train": "train", "dev": "dev", "val": "validation", "valid": "validation", "validation": "validation",
           "test": "test"}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class DataFile:
    """One file, read when it is asked for."""

    path: Path

    @cached_property
    def first(self) -> Row:
        """The first row: its fields tell whose layout this is; empty if the file has none.

        Raises:
            UserError: the file cannot be read.
        """
        return next((row for _, row in self.rows()), {})

    @property
    def split(self) -> str | None:
        """The split that the file's name says, else its folder's; ``val`` is ``validation``, ``dev`` stays ``dev``."""
        for name in (self.path.stem, self.path.parent.name):
            for word in reversed(_WORD.findall(name.lower())):
                if word in _SPLITS:
                    return _SPLITS[word]
        return None

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Rows with where they stand (``file:number``, from 1; of an object of records ``file:name``).

        Raises:
            UserError: the file cannot be read.
        """
        read = {".csv": _csv, ".parquet": _parquet}.get(self.path.suffix, _json)
        try:
            for place, row in read(self.path):
                yield f"{self.path}:{place}", row
        except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path}: cannot be read as {self.path.suffix[1:].upper()} in UTF-8 ({error}); download it "
                            "again") from error


def data_files(places: list[Path]) -> list[DataFile]:
    """The files with a suffix of `SUFFIXES` among files and below folders, in the order of their paths.

    Raises:
        UserError: a place holds none.
    """
    found: dict[Path, DataFile] = {}
    for place in places:
        here = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        here = [path for path in here if path.suffix in SUFFIXES]
        if not here:
            raise UserError(f"{place}: no {', '.join(SUFFIXES)} file there; give the files as published, or a folder of them")
        found |= {path: DataFile(path) for path in here}
    return list(found.values())


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    yield from ((str(number), row) for number, row in enumerate(read_rows(path), 1))


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows by their header; a file without one (MMLU's) has its columns by number: a first line of six fields whose last is a
    letter is no header."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        header: list[str] | None = None
        for number, row in enumerate(rows, 1):
            if number == 1 and not _is_mmlu(row):
                header = row
                continue
            if header is not None and len(row) != len(header):
                raise UserError(f"{path}:{number}: {len(row)} fields, the header has {len(header)}")
            yield str(number), dict(zip(header or map(str, range(len(row))), row, strict=True))


def _is_mmlu(row: list[str]) -> bool:
    return len(row) == 6 and row[5].strip() in tuple("ABCD")


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as stream:
        start = _first_character(stream)
        if start == "[" or (start == "{" and not _is_lines(stream)):
            stream.seek(0)
            yield from _records(path, json.load(stream))
            return
        stream.seek(0)
        for number, line in enumerate(stream, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: one JSON object a line was expected")
                yield str(number), row


def _first_character(stream: Any) -> str:
    while (text := stream.read(1)).isspace():
        pass
    return str(text)


def _is_lines(stream: Any) -> bool:
    """Whether the first line with something on it is a row by itself; one whose names are all numbers is a file of records by
    their PubMed id, on one line."""
    stream.seek(0)
    line = next((line for line in stream if line.strip()), "")
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return False
    return not (row and all(name.isdecimal() for name in row))


def _records(path: Path, data: Any) -> Iterator[tuple[str, Row]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield name, {KEY: name, **(value if isinstance(value, dict) else {VALUE: value})}
        return
    for number, row in enumerate(data, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: an object was expected, found {type(row).__name__}")
        yield str(number), row
