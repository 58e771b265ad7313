"""Scores with and without the questions that stand in a corpus, where that was looked for."""

from collections.abc import Iterator

from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData


def pages(site: SiteData) -> Iterator[Page]:
    """``contamination.html``."""
    if site.contamination:
        yield Page("contamination.html", "Contamination", "contamination.html.j2", lambda: {"contamination": site.contamination},
                   nav="Contamination")
