"""``results.json`` of a site: every number that its pages show, with six digits."""

import json
from typing import Any

from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import lineage_view, published


def record(site: SiteData) -> dict[str, Any]:
    """The site as plain data; no path of the machine that made it."""
    found = {"title": site.settings.title, "notes": site.settings.notes, "baseline": site.baseline, "boards": list(site.views),
            "several_benchmarks": site.several_benchmarks, "lineage": [lineage_view(result) for result in site.results],
            "published": published(), "imported": list(site.imported), "contamination": list(site.contamination)}
    return dict(_rounded(found))


def as_text(site: SiteData) -> str:
    """The record as JSON without spaces: of 60 models in 200 tasks and languages it has megabytes."""
    return json.dumps(record(site), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    """Numbers to six digits: no interval is known as well as that."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(name): _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
