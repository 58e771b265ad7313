"""``results.json`` of a site: every number that its pages show."""

from typing import Any

from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import lineage_view, published


def record(site: SiteData) -> dict[str, Any]:
    """The site as plain data; no path of the machine that made it."""
    return {"title": site.settings.title, "notes": site.settings.notes, "baseline": site.baseline, "boards": list(site.views),
            "several_benchmarks": site.several_benchmarks, "lineage": [lineage_view(result) for result in site.results],
            "published": published(), "imported": list(site.imported), "contamination": list(site.contamination)}
