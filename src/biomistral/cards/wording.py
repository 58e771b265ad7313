"""Templates of cards, and how values get into their Markdown: as text, never as markup."""

import html
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from biomistral.reporting.words import p_words, points

_MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\|*_`[]"})


def plain(value: object) -> str:
    """A value on one line, in which Markdown and HTML mean nothing."""
    return html.escape(" ".join(str(value).split()), quote=False).translate(_MARKUP)


def code(value: object) -> str:
    """A value as inline code: no back-tick or line break can end it early, and no bar a table's cell."""
    return "`" + " ".join(str(value).split()).replace("`", "'").replace("|", "\\|") + "`"


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code, in a fence longer than any that it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def percent(share: float | None) -> str:
    """``63.4``; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}"


def render(template: str, view: dict[str, Any]) -> str:
    """A card's text from its template; blank lines are brought down to one."""
    environment = Environment(loader=PackageLoader("biomistral.cards"), autoescape=False, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False)
    environment.filters |= {"plain": plain, "code": code, "percent": percent, "fenced": fenced,
                            "points": points, "p_words": p_words,
                            "number": lambda value: f"{value:,}"}
    lines: list[str] = []
    for line in environment.get_template(template).render(view).splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).strip()
