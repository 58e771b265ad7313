"""Languages by their ISO 639-1 code, and what engines call them."""

import difflib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from biomistral.errors import UserError
from biomistral.recipe import nearest

SPACELESS = frozenset({"zh", "ja", "th", "km", "my"})
"""Languages that put no space between sentences."""


class Language(NamedTuple):
    """``code`` (ISO 639-1), English ``name``, ``three`` letters (ISO 639-2/T, as Apertium has them), ``nllb`` (FLORES-200)."""

    code: str
    name: str
    three: str
    nllb: str


@cache
def known() -> dict[str, Language]:
    """All languages of ``languages.tsv``, by code."""
    lines = Path(__file__).with_name("languages.tsv").read_text(encoding="utf-8").splitlines()
    found = [Language(*line.split("\t")) for line in lines[1:]]
    return {language.code: language for language in found}


def language(code: str) -> Language:
    """
    Raises:
        UserError: the code is not known; the nearest, by code or by English name, is said.
    """
    if code in known():
        return known()[code]
    named = {one.name.lower(): one.code for one in known().values()} | {one.three: one.code for one in known().values()}
    close = difflib.get_close_matches(code.lower(), named, n=1, cutoff=0.75)
    meant = named[close[0]] if close else code.lower().replace("_", "-").partition("-")[0]
    hint = f"; did you mean '{meant}'?" if meant in known() else nearest(code, known())
    raise UserError(f"language '{code}': not a code that is known (ISO 639-1){hint}")


def language_words(code: str) -> str:
    """``Arabic (ar)``, ``Portuguese (pt-BR)``; a code that has no name here as it stands."""
    found = known().get(code.replace("_", "-").partition("-")[0].lower())
    return f"{found.name} ({code})" if found else code
