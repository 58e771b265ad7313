"""Names of drugs: the stems of international nonproprietary names (WHO), names without one, and their other names."""

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

_STEMS = re.compile(
    r"(?:mab|tinib|ciclib|pril|prilat|sartan|olol|statin|cillin|mycin|micin|floxacin|conazole|nidazole|prazole|tidine|dipine|zepam|"
    r"zolam|caine|cycline|ciclovir|navir|tegravir|buvir|asvir|vudine|triptan|gliptin|gliflozin|glitazone|formin|parin|xaban|gatran|"
    r"lukast|setron|oxetine|barbital|profen|coxib|dronate|thiazide|semide|sone|nisolone|platin|rubicin|taxel|tecan|terol|tropium|"
    r"curonium|flurane|oxacin|penem|sulfazole|thoprim|mustine|trexate|azosin|glutide)$")
_LONG_WORD = re.compile(r"[a-z]{6,}")


class Drug(NamedTuple):
    """Other names it goes by in translations, and its names in Chinese (none: not known here, and not looked for)."""

    others: tuple[str, ...] = ()
    chinese: tuple[str, ...] = ()


@cache
def known() -> dict[str, Drug]:
    """The drugs of ``drugs.tsv`` by their English name."""
    with (Path(__file__).parent / "drugs.tsv").open(encoding="utf-8") as stream:
        next(stream)
        return {name: Drug(tuple(others.split()), tuple(chinese.split()))
                for name, others, chinese in csv.reader(stream, delimiter="\t")}


def drugs_of(text: str) -> dict[str, Drug]:
    """The words of an English text that name drugs."""
    drugs, words = known(), _LONG_WORD.findall(text.lower())
    return {word: drugs.get(word, Drug()) for word in words if word in drugs or (len(word) > 7 and _STEMS.search(word))}
