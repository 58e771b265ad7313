"""What a site consists of: pages made by templates, and files of data that pages load; and names that are safe in addresses."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST = 48


@dataclass(frozen=True)
class Page:
    """One HTML file: ``template`` extends ``base.html.j2``; ``data`` is called when the page is written and kept no longer.

    ``path`` is relative to the site's folder, with ``/``. A page with ``nav`` has a place under that name in every page's menu.
    """

    path: str
    title: str
    template: str
    data: Callable[[], Mapping[str, Any]] = dict
    nav: str = ""

    @property
    def root(self) -> str:
        """What leads from this page to the site's folder: ``""`` or ``../``."""
        return "../" * self.path.count("/")


@dataclass(frozen=True)
class DataFile:
    """A file that pages load when it is asked for. From disk only scripts and styles can be loaded, so data is a ``.js`` file."""

    path: str
    text: Callable[[], str]


def slug(name: str) -> str:
    """A file name for any name: what is not plain lower-case ASCII is replaced, and then a hash of the whole name keeps apart
    names that differ in case, in script or in what was replaced. The same name has the same address on every site."""
    plain = re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-.")[:_LONGEST]
    return plain if plain == name else f"{plain or 'x'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
