"""Scores as CSV, and back. A spreadsheet takes text that begins with ``=`` for a formula and runs it: such text is quoted."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.exports.scores import NUMBERS, TEXT, Score, plain, score_of

COLUMNS = ("model", "benchmark", "split", "protocol", "definition_hash", "task", "questions", "accuracy", "low", "high", "spread",
           "origin")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""What a spreadsheet may take for the beginning of a formula; and the mark itself, so that it can be taken off again."""


def write(scores: Sequence[Score]) -> str:
    """A header, then a row a score; numbers are fractions in full, nothing where nothing is known."""
    assert set(COLUMNS) == {*TEXT, *NUMBERS}
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in scores:
        data = plain(score)
        writer.writerow([guarded(data[name]) if name in TEXT else "" if data[name] is None else data[name] for name in COLUMNS])
    return stream.getvalue()


def read(text: str, where: str) -> list[Score]:
    """
    Raises:
        UserError: there is no such header, or a row is not sound.
    """
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{where}: cannot be read as CSV ({error})") from error
    header = rows[0] if rows else []
    if missing := [name for name in ("model", "protocol", "task", "accuracy") if name not in header]:
        raise UserError(f"{where}: not a results file: no column {missing[0]!r}; columns are {', '.join(COLUMNS)}, accuracies "
                        "from 0 to 1")
    if odd := [name for name in header if name not in COLUMNS]:
        raise UserError(f"{where}: unknown column {odd[0]!r}; columns are {', '.join(COLUMNS)}")
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(f"{where}: row {number} has {len(row)} cells, the header {len(header)}")
        found.append(score_of(_bare(dict(zip(header, row, strict=True))), f"{where}: row {number}"))
    return found


def guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _bare(row: dict[str, str]) -> dict[str, Any]:
    return {name: value[1:] if name in TEXT and value.startswith("'") and value[1:].startswith(_FORMULA) else value
            for name, value in row.items()}
