"""The kinds of pages of a site: one module a kind, each with ``pages(site) -> Iterator[Page | DataFile]``.

To add a kind: write its module here with `pages`, a template that extends ``base.html.j2``, and name the module in `KINDS`;
the menu follows the order of `KINDS` and shows pages that have ``nav``. What was read stands in `SiteData`, read once: a page's
``data`` is a function that is called when the page is written. Files under ``templates/assets/`` are copied to ``assets/`` of the
site as they are; a template names its own in ``{% block head %}`` (styles) and ``{% block scripts %}``.

Every template has ``root`` (what leads to the site's folder: ``{{ root }}assets/board.js``), ``page``, ``site`` and
``there(path)``: whether the site has that page, so that ``link(path, text)`` of ``macros.html.j2`` (imported ``with context``) is
a link only where it leads somewhere. Paths come from ``site.model_path(name)`` and ``site.task_path(benchmark, task, language)``,
relative to the site's folder.

Everything must be readable without scripts; no page may ask for anything outside the site; charts are inline SVG, drawn when the
site is made, so that they print, follow the theme through CSS variables and weigh kilobytes (Plotly's bundle weighs 4.7 MB).
"""

from types import ModuleType

from biomistral.reporting.pages import (
    contamination,
    explorer,
    languages,
    leaderboard,
    models,
    provenance,
    tasks,
    tradeoff,
    training,
    versus,
)

KINDS: tuple[ModuleType, ...] = (leaderboard, models, tasks, explorer, versus, languages, tradeoff, training, contamination,
                                 provenance)
