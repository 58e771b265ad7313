"""Write the site: every kind of page, the numbers as JSON, and the scripts and styles beside them. No network, ever."""

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from biomistral.artifact import Workspace
from biomistral.files import write_text
from biomistral.reporting.page import DataFile, Page
from biomistral.reporting.pages import KINDS
from biomistral.reporting.record import as_text
from biomistral.reporting.rendering import Renderer
from biomistral.reporting.site_data import SiteData, read_site
from biomistral.reporting.words import finding_words


def build_site(work: Workspace) -> None:
    """Make ``index.html`` and the other pages, ``results.json`` and ``assets/`` from results folders, measured here or imported.

    Raises:
        UserError: see `read_site`.
    """
    site = read_site(work)
    files = list(_files(site))
    renderer = Renderer(site, [file for file in files if isinstance(file, Page)])
    for file in files:
        place = work.path / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, renderer.html(file) if isinstance(file, Page) else file.text())
    _write_assets(work.path / "assets")
    write_text(work.path / "results.json", as_text(site))
    work.counts |= {"models": len(site.models), "tables": len(site.views), "pages": len(files),
                    "rows": sum(len(board["rows"]) for board in site.views)}
    work.facts |= {"baseline": site.baseline, "findings": [finding_words(board) for board in site.views if board["finding"]]}


def _files(site: SiteData) -> Iterator[Page | DataFile]:
    for kind in KINDS:
        yield from kind.pages(site)


def _write_assets(folder: Path) -> None:
    """Scripts and styles, as files beside the pages: a site opens from disk."""
    with resources.as_file(resources.files("biomistral.reporting").joinpath("templates/assets")) as assets:
        shutil.copytree(assets, folder, dirs_exist_ok=True)
