"""Rows of like shape as columns: what rows say in the same words is said once. Exact both ways."""

from collections.abc import Mapping, Sequence
from typing import Any

_LONG = 5
"""Columns of so many values are referred to, not said again."""


def as_columns(rows: Sequence[Any]) -> dict[str, Any]:
    """``{"count", "columns"}``. In place of objects with the same keys stands one object with a column under each key. A column
    is a list with a value for each row, or of one value that all rows have, or a JSON pointer (RFC 6901) from ``columns`` to an
    earlier column that says the same."""
    return {"count": len(rows), "columns": _referred(_column(rows), "", {})}


def as_rows(data: Mapping[str, Any]) -> list[Any]:
    """The rows that `as_columns` was given.

    Raises:
        ValueError: a column has neither one value nor one for each row.
        KeyError, TypeError: it is no such object, or a pointer leads nowhere.
    """
    return _values(data["columns"], data["count"], data["columns"])


def _column(rows: Sequence[Any]) -> Any:
    first = rows[0] if rows else None
    if isinstance(first, Mapping) and first and all(isinstance(row, Mapping) and row.keys() == first.keys() for row in rows):
        return {name: _column([row[name] for row in rows]) for name in first}
    return [first] if rows and len(set(map(repr, rows))) == 1 else list(rows)


def _referred(column: Any, place: str, seen: dict[str, str]) -> Any:
    """With pointers for columns that were seen before; ``seen``: where, by what they say."""
    if isinstance(column, dict):
        return {name: _referred(part, f"{place}/{_escaped(name)}", seen) for name, part in column.items()}
    if len(column) < _LONG:
        return column
    first = seen.setdefault(repr(column), place)
    return column if first == place else first


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _values(column: Any, count: int, root: Any) -> list[Any]:
    if isinstance(column, str):
        place, column = column, root
        for name in place.split("/")[1:]:
            column = column[name.replace("~1", "/").replace("~0", "~")]
    if isinstance(column, Mapping):
        parts = [_values(part, count, root) for part in column.values()]
        return [dict(zip(column, row, strict=True)) for row in zip(*parts, strict=True)]
    if not isinstance(column, list) or len(column) not in (1, count):
        raise ValueError(f"a column has neither one value nor {count}")
    return column * count if len(column) == 1 < count else column
