"""Where everything comes from: the chain of every row back to its articles, what protocols are, versions and machines."""

from collections.abc import Iterator
from typing import Any

from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.view import lineage_view


def pages(site: SiteData) -> Iterator[Page]:
    """``provenance.html``."""
    yield Page("provenance.html", "Provenance", "provenance.html.j2", lambda: _data(site), nav="Provenance")


def _data(site: SiteData) -> dict[str, Any]:
    return {"lineage": [lineage_view(result) for result in site.results], "boards": site.views}
