"""Names that a translation keeps: genes, codes, formulas and drugs."""

import re
from collections.abc import Iterator
from functools import cache

from biomistral.translation.checks.drugs import Drug, drugs_of
from biomistral.translation.checks.sounds import skeleton_of, sound_of
from biomistral.translation.checks.units import unit_of
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

_CODE = re.compile(r"(?<![\w/])[A-Za-z]+(?:[-/][A-Za-z]+)*-?\d[\w.\-+]*|(?<![\w.,])\d+-?[A-Z][\w\-+]*", re.ASCII)
_ION = re.compile(r"(?<![A-Za-z])(?:Na|K|Ca|Mg|Cl|H|Fe|Zn|Li|Cu|NH4|HCO3|PO4|SO4)(?:[²³]?[⁺⁻]|\d?[+−])")
_GENES = frozenset(["EGFR", "KRAS", "NRAS", "HRAS", "BRAF", "MYC", "PTEN", "APC", "CFTR", "RET", "KIT", "ALK", "ATM", "JAK",
                    "SMAD", "MLL", "ABL", "BCR", "FGFR", "VEGF", "PDGF"])
_GENE = re.compile(r"(?<![\w-])[A-Z]{3,5}(?![\w])")
_WORD = re.compile(r"[^\W\d_]+(?:[-’'][^\W\d_]+)*")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s|h|x|y|yo|[A-Z]?-[a-z].*)$", re.IGNORECASE)
_WORDS_BEHIND = re.compile(r"(?:-|(?<=\d[+]))[a-z]{3,}(?:-.*)?$")
_JOINT = re.compile("[-/]")
_LONGEST_CODE = 24
_HOMOGLYPHS = str.maketrans("АВСЕНКМОРТХИЛФДГПБУЧ", "ABCEHKMOPTXILFDGPBUC")
_LONGEST_BEGINNING = 5
"""Letters of a drug's sound that a translation keeps; its ending is the language's."""


def lost_names(source: Fields, translated: Fields, language: str) -> Iterator[Reason]:
    """Gene symbols, codes, formulas and drugs of the source that are not in the translation."""
    for name, text in source.items():
        for code in dict.fromkeys(codes_of(text)):
            if not _kept(code, translated[name]):
                yield Reason("name", name, f"{code} of the source is not in the translation")
        drugs = drugs_of(text)
        words = [part for word in _WORD.findall(translated[name]) for part in (word, *word.split("-"))] if drugs else []
        for known, drug in drugs.items():
            if not _drug_kept(known, drug, translated[name], words, language):
                yield Reason("drug", name, f"{known} of the source is not in the translation")


def codes_of(text: str) -> Iterator[str]:
    """Names of letters and digits, ions, and gene symbols of letters alone."""
    for match in _CODE.finditer(text):
        code = _WORDS_BEHIND.sub("", match[0])
        code = code.rstrip(".-+" if not code.endswith(("+", "-")) else ".")
        if code[0].isdigit() and (unit_of(code.lstrip("0123456789.")) or _ORDINAL.fullmatch(code)):
            continue
        first = _JOINT.split(code)[0]
        if len(code) > _LONGEST_CODE or (first != code and len(first) > 3 and first.isalpha() and first[1:].islower()):
            continue  # a table without its spaces; a word before a number: type-2, Alpha-1, cells/mm3
        yield code
    yield from _ION.findall(text)
    yield from (word for word in _GENE.findall(text) if word in _GENES)


def _kept(code: str, text: str) -> bool:
    """Whether a code stands in a text: as it is, in lookalike letters, with its letters in another order (HIV-1,
    VIH-1), or with as many capitals of another script before its digits."""
    wanted, plain = _squeezed(code), _squeezed(text)
    if wanted in plain or wanted in (plain := plain.translate(_HOMOGLYPHS)):
        return True
    letters, digits = re.fullmatch(r"(\D*)(.*)", wanted).groups()  # type: ignore[union-attr]
    if not digits:
        return False
    ends = [match.start() for match in re.finditer(re.escape(digits), plain) if match.start() >= len(letters) > 1]
    written = _GAPS.sub("", text)
    return any(sorted(plain[end - len(letters):end]) == sorted(letters) or _foreign(written[end - len(letters):end])
               for end in ends)


def _foreign(letters: str) -> bool:
    """Whether letters are all capitals of another script than Latin."""
    return letters.isupper() and not any(sign.isascii() for sign in letters)


def _squeezed(text: str) -> str:
    """Without spaces and hyphens, in capitals, digits as ASCII."""
    return _GAPS.sub("", text).upper().translate(_SIGNS)


_GAPS = re.compile(r"[\s\-‐‑–−]+")
_SIGNS = str.maketrans("⁺⁻²³⁴₂₃₄٠١٢٣٤٥٦٧٨٩", "+-2342340123456789")


def _drug_kept(name: str, drug: Drug, text: str, words: list[str], language: str) -> bool:
    names = (name, *drug.others)
    if language in ("zh", "ja"):
        return not drug.chinese or any(one in text for one in (*drug.chinese, name))
    if language in ("ar", "fa", "he"):
        return any(_like(skeleton_of(one), skeleton_of(word), 3) for one in names for word in words)
    return any(_like(_sound(one), _sound(word), _LONGEST_BEGINNING) for one in names for word in words)


@cache
def _sound(word: str) -> str:
    return sound_of(word)


def _like(one: str, other: str, most: int) -> bool:
    """Whether two sounds begin alike, a first letter apart (h, which many languages drop)."""
    wanted = one[:min(most, len(one))]
    return other.startswith(wanted) or (other.startswith(wanted[1:]) and len(wanted) > 3 and wanted[0] in "gh")
