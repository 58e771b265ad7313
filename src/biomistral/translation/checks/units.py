"""Units as they are written in several languages, and spelled out."""

import csv
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

SPELLED = re.compile(
    r"[\s-]*(?:de\s+|d[’']\s*)?(?:milli|mili|micro|mikro|nano|kilo|quilo|centi|zenti|deci|gram|litr|liter|meter|metre|metro|mètre|"
    r"miljoen|per\s?cent|percent|por\s?cen|pour\s?cent|prozent|процент|милли|микро|нано|кило|санти|грамм|литр|метр|градус|единиц|"
    r"unit|unid|unité|einheit|unità|degree|degré|grad|grau|ملل|ميل|مل[يغ]|ميكرو|كيلو|غرام|جرام|لتر|سنتيم|متر|درجة|في المئة|"
    r"في المائة|بالمئة|بالمائة|وحد|毫|微|千|厘|克|升|摄氏|华氏|度|单位|国际|百分)", re.IGNORECASE)
"""A number's unit in words, in any of the languages."""

_HAN = re.compile(r"[一-鿿]")
_BEFORE = re.compile(r"^[\s -]+")


@cache
def _written() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """By first character, every way a unit is written, longest first."""
    with (Path(__file__).parent / "units.tsv").open(encoding="utf-8") as stream:
        next(stream)
        names = [(name.replace("_", " "), unit) for unit, written in csv.reader(stream, delimiter="\t")
                 for name in written.split()]
    found = defaultdict(list)
    for name, unit in sorted(names, key=lambda item: -len(item[0])):
        ended = "" if _HAN.search(name) else r"(?![^\W\d_㐀-鿿])"
        found[name[0]].append((re.compile(r"[\s.]*".join(map(re.escape, name.split())) + ended), unit))
    return found


def unit_of(after: str) -> str:
    """The unit that what follows a number begins with; "" if it begins with none."""
    text = _BEFORE.sub("", after).casefold().replace("mm hg", "mmhg")
    return next((unit for pattern, unit in _written().get(text[:1], ()) if pattern.match(text)), "")
