"""Templates to HTML: every value is escaped, data in scripts is JSON in which no tag can end."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from biomistral import __version__
from biomistral.reporting.charts import percent
from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.words import decimals, p_words, points


class Renderer:
    """Makes the HTML of pages that know of one another."""

    def __init__(self, site: SiteData, pages: Sequence[Page]) -> None:
        self.environment = Environment(loader=PackageLoader("biomistral.reporting"), autoescape=True, undefined=StrictUndefined,
                                       trim_blocks=True, lstrip_blocks=True)
        self.environment.filters |= {"percent": percent, "points": points, "p_words": p_words, "decimals": decimals,
                                     "json": lambda value: json.dumps(value, ensure_ascii=False)}
        paths = {page.path for page in pages}
        self.environment.globals |= {"site": site, "menu": [(page.nav, page.path) for page in pages if page.nav],
                                     "version": __version__, "there": paths.__contains__}

    def html(self, page: Page) -> str:
        """The page as HTML."""
        data: dict[str, Any] = {**page.data(), "page": page, "root": page.root}
        return self.environment.get_template(page.template).render(data)
