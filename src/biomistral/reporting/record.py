"""``results.json`` of a site: every number that its pages show, rows as columns; and reading it again."""

import json
from collections.abc import Mapping
from typing import Any

from biomistral.reporting.columns import as_columns, as_rows
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import lineage_view, published

FORMAT = "biomistral site 2"
"""Files without it are of the first form: rows as they are, numbers with six digits."""


def record(site: SiteData) -> dict[str, Any]:
    """The site as plain data; no path of the machine that made it."""
    found = {"format": FORMAT, "title": site.settings.title, "notes": site.settings.notes, "baseline": site.baseline,
             "boards": list(site.views), "several_benchmarks": site.several_benchmarks,
             "lineage": [lineage_view(result) for result in site.results], "published": published(),
             "imported": list(site.imported), "contamination": list(site.contamination)}
    return dict(_rounded(found))


def as_text(site: SiteData) -> str:
    """The record as JSON without spaces, rows as columns: of 60 models in 200 tasks and languages a quarter of what rows take."""
    found = record(site)
    found["boards"] = [{**board, "rows": as_columns(board["rows"])} for board in found["boards"]]
    found["lineage"] = as_columns(found["lineage"])
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def is_record(data: Any) -> bool:
    """Whether JSON data is what `as_text` wrote, now or in its first form."""
    return isinstance(data, Mapping) and {"title", "boards", "lineage"} <= data.keys() and isinstance(data["boards"], list)


def read_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """The record as `record` made it, of either form.

    Raises:
        ValueError, KeyError, TypeError: it is not sound.
    """
    return {**data, "boards": [{**board, "rows": _rows(board["rows"])} for board in data["boards"]],
            "lineage": _rows(data["lineage"])}


def _rows(rows: Any) -> list[dict[str, Any]]:
    return rows if isinstance(rows, list) else as_rows(rows)


def _rounded(value: Any) -> Any:
    """Fractions to five decimals, a thousandth of a point (no interval is known as well), what is smaller than 0.01 to three
    digits. Counts stay exact, and with them accuracies: ``right / n``."""
    if isinstance(value, float):
        near = round(value, 5) if abs(value) >= 1e-2 else float(f"{value:.3g}")
        return int(near) if near.is_integer() else near
    if isinstance(value, dict):
        return {str(name): _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
