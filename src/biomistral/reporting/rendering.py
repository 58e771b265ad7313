"""Templates to HTML: every value is escaped, data in scripts is JSON in which no tag can end."""

import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup, escape

from biomistral import __version__
from biomistral.languages import language_words
from biomistral.reporting.charts import percent
from biomistral.reporting.page import Page
from biomistral.reporting.site_data import SiteData
from biomistral.reporting.words import decimals, p_words, points


class _WithoutIndents(Extension):
    """Templates are indented for who reads them; a page of hundreds of rows need not be. Values keep their spaces, words one
    between them, tables none."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"^[ \t]+(</?t)?", lambda found: found[1] or " ", source, flags=re.MULTILINE)


def isolated(text: str) -> Markup:
    """Text that may run from right to left without turning what stands around it; plain ASCII needs no marks."""
    return escape(text) if text.isascii() else Markup("<bdi>{}</bdi>").format(text)


class Renderer:
    """Makes the HTML of pages that know of one another."""

    def __init__(self, site: SiteData, pages: Sequence[Page]) -> None:
        self.environment = Environment(loader=PackageLoader("biomistral.reporting"), autoescape=True, undefined=StrictUndefined,
                                       trim_blocks=True, lstrip_blocks=True, extensions=[_WithoutIndents])
        self.environment.filters |= {"percent": percent, "points": points, "p_words": p_words, "decimals": decimals,
                                     "json": lambda value: json.dumps(value, ensure_ascii=False), "isolated": isolated,
                                     "language_words": language_words}
        paths = {page.path for page in pages}
        self.environment.globals |= {"site": site, "menu": [(page.nav, page.path) for page in pages if page.nav],
                                     "version": __version__, "there": lambda path: path.partition("#")[0] in paths}

    def html(self, page: Page) -> str:
        """The page as HTML."""
        data: dict[str, Any] = {**page.data(), "page": page, "root": page.root}
        return self.environment.get_template(page.template).render(data)
