"""Published question files as rows: JSON (a list, an object of records, or one object a line), CSV, Parquet; JSON and CSV also
inside a zip archive, read as streams."""

import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TextIO

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
_ARCHIVE = ".zip"
_READ_CHARACTERS = 1 << 18
_LARGEST_RECORD = 1 << 26
"""Characters of a record of a JSON list; the largest published ones have some thousands."""


@dataclass(frozen=True)
class DataFile:
    """One file, read when it is asked for. ``member``: its name inside the zip archive that its path begins with."""

    path: Path
    member: str = ""

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
            for place, row in read(self):
                yield f"{self.path}:{place}", row
        except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path}: cannot be read as {self.path.suffix[1:].upper()} in UTF-8 ({error}); download it "
                            "again") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # the last: encrypted
            raise UserError(f"{self.path}: cannot be unpacked ({error}); download the archive again") from error

    @contextmanager
    def opened(self) -> Iterator[TextIO]:
        """The text, with line ends as they are."""
        if not self.member:
            with self.path.open(encoding="utf-8-sig", newline="") as stream:
                yield stream
            return
        archive = self.path.parents[len(Path(self.member).parts) - 1]
        with zipfile.ZipFile(archive) as packed, packed.open(self.member) as data:
            yield io.TextIOWrapper(data, encoding="utf-8-sig", newline="")


def data_files(places: list[Path]) -> list[DataFile]:
    """The files with a suffix of `SUFFIXES` among files and below folders, in the order of their paths.

    Raises:
        UserError: a place holds none.
    """
    found: dict[Path, DataFile] = {}
    for place in places:
        here = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        files = [file for path in here for file in _within(path)]
        if not files:
            raise UserError(f"{place}: no {', '.join(SUFFIXES)} file there; give the files as published, or a folder of them")
        found |= {file.path: file for file in files}
    return list(found.values())


def _within(path: Path) -> list[DataFile]:
    """A data file as itself; a zip archive as the files in it."""
    if path.suffix != _ARCHIVE:
        return [DataFile(path)] if path.suffix in SUFFIXES else []
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(SUFFIXES) and not name.endswith(".parquet"))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a readable zip archive ({error}); download it again") from error
    return [DataFile(path / name, name) for name in names if not name.startswith("__MACOSX/")]


def _parquet(file: DataFile) -> Iterator[tuple[str, Row]]:
    yield from ((str(number), row) for number, row in enumerate(read_rows(file.path), 1))


def _csv(file: DataFile) -> Iterator[tuple[str, Row]]:
    """Rows by their header; a file without one (MMLU's) has its columns by number: a first line of six fields whose last is a
    letter is no header."""
    with file.opened() as stream:
        rows = csv.reader(stream, strict=True)
        header: list[str] | None = None
        for number, row in enumerate(rows, 1):
            if number == 1 and not _is_mmlu(row):
                header = row
                continue
            if header is not None and len(row) != len(header):
                raise UserError(f"{file.path}:{number}: {len(row)} fields, the header has {len(header)}")
            yield str(number), dict(zip(header or map(str, range(len(row))), row, strict=True))


def _is_mmlu(row: list[str]) -> bool:
    """Not so for the header ``id,stem,A,B,C,D`` of what people write themselves."""
    return len(row) == 6 and row[5].strip() in tuple("ABCD") and row[2:] != list("ABCD")


def _json(file: DataFile) -> Iterator[tuple[str, Row]]:
    with file.opened() as stream:
        start = _first_character(stream)
        is_lines = start == "{" and _is_lines(start + stream.readline())
    with file.opened() as stream:
        if start == "[":
            _first_character(stream)
            yield from _numbered(file.path, zip(count(1), _items(stream), strict=False), "an object was expected, found {}")
        elif start == "{" and not is_lines:
            yield from _records(json.load(stream))
        else:
            lines = ((number, json.loads(line)) for number, line in enumerate(stream, 1) if line.strip())
            yield from _numbered(file.path, lines, "one JSON object a line was expected")


def _numbered(path: Path, items: Iterator[tuple[int, Any]], expected: str) -> Iterator[tuple[str, Row]]:
    for number, row in items:
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: {expected.format(type(row).__name__)}")
        yield str(number), row


def _items(stream: TextIO) -> Iterator[Any]:
    """The items of a JSON list whose bracket was read, one after the other: BioInstructQA's training file is larger than many
    memories.

    Raises:
        JSONDecodeError: the list is malformed, or ends too early.
    """
    decoder, text, place = json.JSONDecoder(), stream.read(_READ_CHARACTERS), 0
    while True:
        place = _past_space(text, place)
        try:
            if text[place:place + 1] == "]":
                break
            item, end = decoder.raw_decode(text, place)
            after = _past_space(text, end)
            if text[after:after + 1] not in (",", "]"):
                raise json.JSONDecodeError("expected , or ]", text, after)
        except json.JSONDecodeError:
            more = stream.read(max(_READ_CHARACTERS, len(text) - place))
            if not more or len(text) - place > _LARGEST_RECORD:
                raise
            text, place = text[place:] + more, 0
            continue
        yield item
        place = after + (text[after] == ",")
    if rest := (text[place + 1:] + stream.read(_READ_CHARACTERS)).strip():
        raise json.JSONDecodeError("nothing expected behind the list", rest, 0)


def _past_space(text: str, place: int) -> int:
    while text[place:place + 1].isspace():
        place += 1
    return place


def _first_character(stream: TextIO) -> str:
    while (text := stream.read(1)).isspace():
        pass
    return str(text)


def _is_lines(line: str) -> bool:
    """Whether the first line with something on it is a row by itself; one whose names are all numbers is a file of records by
    their PubMed id, on one line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return False
    return not (row and all(name.isdecimal() for name in row))


def _records(data: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    for name, value in data.items():
        yield name, {KEY: name, **(value if isinstance(value, dict) else {VALUE: value})}
