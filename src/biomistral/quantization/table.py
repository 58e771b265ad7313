"""The table of a model's forms: memory, speed and accuracy as the paper has them, and how far each is from 16 bits."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""A form and its measurements by column; None where one was not taken."""


@dataclass(frozen=True)
class Column:
    """A measurement: its key in a row, what it is called, and how a number of it is written."""

    key: str
    title: str
    write: Callable[[Any], str]


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _small(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def _points(value: Sequence[float]) -> str:
    difference, low, high = (100 * part for part in value)
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


COLUMNS = (
    Column("form", "form", str),
    Column("bytes", "on disk, MB", _megabytes),
    Column("bits_per_weight", "bits a weight", "{:.2f}".format),
    Column("resident_bytes", "in memory, MB", _megabytes),
    Column("perplexity", "perplexity", "{:.2f}".format),
    Column("kl_mean", "KL, nats", _small),
    Column("kl_p99", "KL, 99th percentile", "{:.2f}".format),
    Column("argmax_flips", "next token changed", _percent),
    Column("option_kl_mean", "KL of options", _small),
    Column("option_flips", "answers changed", _percent),
    Column("accuracy", "accuracy", _percent),
    Column("difference", "against 16 bits, points", _points),
    Column("seconds_per_question", "s a question", "{:.3f}".format),
    Column("relative_time", "relative time", "{:.2f}".format),
    Column("prefill_tokens_per_second", "prompt, tokens/s", "{:,.0f}".format),
    Column("decode_tokens_per_second", "answer, tokens/s", "{:.1f}".format),
)


def shown(rows: Sequence[Row]) -> list[Column]:
    """The columns in which at least one form has a measurement."""
    return [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]


def cell(row: Row, column: Column) -> str:
    """A measurement as it is written; ``-`` where it was not taken."""
    value = row.get(column.key)
    return "-" if value is None else column.write(value)


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, its columns aligned so that it can be read as it is."""
    columns = shown(rows)
    cells = [[column.title for column in columns], *([cell(row, column) for column in columns] for row in rows)]
    widths = [max(3, *(len(line[place]) for line in cells)) for place in range(len(columns))]
    lines = [" | ".join(text.ljust(width) if place == 0 else text.rjust(width)
                        for place, (text, width) in enumerate(zip(line, widths, strict=True))) for line in cells]
    rule = " | ".join("-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """The table as CSV with plain numbers; the interval of the difference stands in columns of its own."""
    keys = [key for column in shown(rows) for key in (("difference", "low", "high") if column.key == "difference"
                                                      else (column.key,))]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, keys, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {key: row.get(key) for key in keys}
        flat |= dict(zip(("difference", "low", "high"), row.get("difference") or (), strict=False)) if "low" in keys else {}
        writer.writerow({key: "" if value is None else value for key, value in flat.items()})
    return stream.getvalue()
