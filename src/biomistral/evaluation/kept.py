"""Where the rows of a part lie on the disk: batch by batch in a journal until all are there, then in one Parquet file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from biomistral.records import ANSWER_SCHEMA, read_rows, write_table
from biomistral.scoring.tally import Row


class Kept:
    """The rows of so many batches under one file's name. What a kill takes is the batch that was being computed.

    A line of the journal is a batch. One that was cut is no JSON and counts as none; the next then begins on a line of its own.
    """

    def __init__(self, file: Path, num_batches: int) -> None:
        self._file, self._journal, self._num_batches = file, file.with_suffix(".jsonl"), num_batches
        self._rows = {} if file.is_file() else _read(self._journal)
        self.missing = [] if file.is_file() else [number for number in range(num_batches) if number not in self._rows]

    def fill(self, computed: Iterator[list[Row]]) -> Iterator[int]:
        """Take the missing batches, in their order, and put each on the disk; yields the number of each."""
        for number in self.missing:
            self._rows[number] = next(computed)
            _append(self._journal, {"batch": number, "rows": self._rows[number]})
            yield number
        if not self._file.is_file():
            write_table(self._file, (row for number in range(self._num_batches) for row in self._rows[number]), ANSWER_SCHEMA)
        self._journal.unlink(missing_ok=True)
        self._rows, self.missing = {}, []

    def rows(self) -> Iterator[Row]:
        """All rows, once every batch is there."""
        return read_rows(self._file)


def _read(journal: Path) -> dict[int, list[Row]]:
    found = {}
    for line in journal.read_bytes().split(b"\n") if journal.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # nothing behind the last line's end, or what a kill left of a line
            continue
        found[entry["batch"]] = entry["rows"]
    return found


def _append(journal: Path, entry: dict[str, object]) -> None:
    with journal.open("a+b") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        begun = file.read() not in (b"", b"\n")
        file.write((b"\n" if begun else b"") + json.dumps(entry).encode() + b"\n")
