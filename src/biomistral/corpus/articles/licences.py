"""The licence gate: what an article says about its licence, as one SPDX-like id, or nothing when that is not certain.

Publishers state a licence up to four times (link, ``license-type``, ``ali:license_ref``, prose) and not always the same
one. Every statement counts: the result carries all restrictions any of them names, and one malformed Creative Commons
code ("by-ncnd", "by-n") makes the licence unknown, so that nothing passes as free by a misprint.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

CC0 = "CC0-1.0"
US_GOVERNMENT = "PD-US-Gov"
PUBLIC_DOMAIN = "PD"
UNKNOWN = "unknown"

_DASH = "\\-\u2010-\u2015\u2212_"
_LONGEST = 20_000  # characters; a longer statement is no licence, and some patterns are quadratic
_VERSIONS = frozenset(("1.0", "2.0", "2.1", "2.5", "3.0", "4.0"))
_ID = re.compile(r"(cc-by(?:-nc)?(?:-sa|-nd)?)(?:-\d\.\d(?:-(?!nc|nd|sa)(?:[a-z]{2}|igo))?)?")


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_LINK = re.compile(r"creative\s?commons?\.\s?(?:org|com|net)\s?/+\s?([^\s\"'<>()\[\],;]*"
                   r"(?:(?:(?<=/)\s(?:by|\d)|\s(?:nc|nd|sa)(?![a-z]))[^\s\"'<>()\[\],;]*)*)",
                   re.IGNORECASE)
_LINK_PATH = re.compile(r"(?:licen[sc]es?|(publicdomain))(?=[/?#.]|$)(?:/+([^/]*))?"
                        r"(?:/+v?(\d\.\d)(?:/+([a-z]{2}|igo)(?![a-z]))?)?")
_SHORT = re.compile(
    rf"(?:\bcc|creative ?commons)(?:[\s{_DASH}(]*(by)((?:[\s,/+{_DASH}]*(?:nc|nd|sa)(?![a-z]))*)([{_DASH}]?(?!licen)[a-z]+)?"
    rf"(?:[\s{_DASH}]*v?(\d\.\d))?((?:[\s,/+{_DASH}]*(?:nc|nd|sa)\b)*)(?:[\s{_DASH}]*(igo)\b)?"
    rf"|[\s{_DASH}]*(?:nc|nd|sa)(?![a-z]))", re.IGNORECASE)
_BARE_CODE = re.compile(rf"by(?:[{_DASH}](?:nc|nd|sa|n)+)*", re.IGNORECASE)
_CREATIVE = _any(r"creative\s*commons", r"\bcc(?:\b|_?by|[\s-]?(?:0|zero))")
_ATTRIBUTION = _any("attribution", "atribu", "attribuzione", "namensnennung", "paternité", "reconocimiento",
                    "naamsvermelding", "uznanie autorstwa", "署名", "表示", "저작자")
_ZERO = _any(r"\bcc[\s-]?(?:0|zero)\b", r"public\s+domain\s+dedication",
             r"creative\s+commons\s+(?:zero|(?:cc0\s+)?public\s+domain)")
_FOR_DATA = _any(r"(?:dedication|waiver|cc0|zero)\b[^.]*\bappl(?:y|ies) to (?:the |all )?(?:data|metadata)")
_BOTH_USES = re.compile(rf"commercial(?:ly)?\s*(?:and|or|&|as well as|/)\s*non[\s{_DASH}]?commercial|"
                        rf"non[\s{_DASH}]?commercial(?:ly)?\s*(?:and|or|&|as well as|/)\s*commercial", re.IGNORECASE)
_RESTRICTIONS = {
    "NC": _any(rf"non?[\s{_DASH}]*comm?ercial", rf"não[\s{_DASH}]*comercial", rf"ni(?:cht|et)[\s{_DASH}]*[kc]ommerz?[ic]",
               "keine kommerzielle", "(?:sem|sin) fin(?:s|es) (?:comercia|lucrativos|de lucro)", "pas d.utilisation commerciale",
               "niekomercyjne", "非商[业業]", "非営利", "비영리", r"for commercial re-?use,? please contact",
               r"not\s+(?:be\s+)?(?:used|reproduced|distributed|copied)?\s*(?:for\s+(?:any\s+)?)?commercial"),
    "ND": _any(rf"no[\s{_DASH}]*deriv", r"s[ei][mn]\s*(?:obras?\s*)?deriva", "non opere derivate", "keine bearbeitung",
               "pas de modification", "geen ?afgeleide", "bez utwor", "禁止演[绎繹]", "改変禁止", "변경\\s?금지",
               "no modifications? or adaptations? (?:is|are) made", "share adapted material"),
    "SA": _any(rf"share[\s{_DASH}]*alike", "compartilha ?igual", "compartir ?igual", "partage dans les m.mes conditions",
               "gleichen bedingungen", "condividi allo stesso modo", "gelijk ?delen", "na tych samych warunkach",
               "相同方式共享", "継承", "동일조건", "under (?:the )?identical terms"),
}
_RESTRICTED = re.compile("|".join(pattern.pattern for pattern in _RESTRICTIONS.values()), re.IGNORECASE)
_VERSION = re.compile(r"(?:licen[sc]e|international|unported|attribution\S*|alike|igual|derivs|derivatives|commercial|\bby)"
                      r"[\s,(v]*(\d\.\d)", re.IGNORECASE)
_NOT_PUBLIC = _any(r"not (?:in|within|part of|considered) (?:the )?public domain")
_PUBLIC = _any(r"\b(?:article|work|publication|paper|manuscript|document|it|this)\b[^.]{0,80}?\b(?:is|lies|be)\b[^.]{0,30}?"
               r"\b(?:in|to) the public domain", r"^\W*public[\s-]?domain\W*$")
_GOVERNMENT = _any(r"^us-?gov(?:ernment)?$", r"u\.?\s?s\.? government(?:al)? work", r"united states government work",
                   r"work of the (?:u\.?\s?s\.?|united states) (?:federal )?government",
                   r"(?:written|authored|prepared|produced) by (?:\(?an?\)? |one or more )?(?:u\.?\s?s\.?|united states|federal) "
                   r"(?:federal )?(?:government )?employee")
_OTHER_TERMS = _any(r"open government licen", r"open-government-licen", "crown copyright", "all rights reserved", r"\bgnu\b",
                    "publication model", "author ?choice")
"""Terms beside which a work is not taken for public domain."""

Evidence = tuple[frozenset[str] | None, str]
"""The elements of a licence (BY, NC, ND, SA; PD: public domain; none: CC0), or None if malformed; and the version, or ''."""


@dataclass(frozen=True)
class _Reading:
    """What one statement says by itself."""

    evidence: tuple[Evidence, ...]
    restrictions: frozenset[str]
    for_data: bool
    """It frees the article's data, which is not the article."""
    public: str
    """``PD`` or ``PD-US-Gov`` where it puts the article into the public domain."""
    other_terms: bool


def identify(statements: Iterable[str]) -> tuple[str, str]:
    """The licence that all statements together allow, and the words it rests on.

    Returns ``("CC-BY-NC-4.0", evidence)``, or ``("unknown", what was seen)`` if they name none, or a malformed one.
    A port stays in the id: ``CC-BY-3.0-IGO``.
    """
    texts = [" ".join(text.split()) for text in statements if text.strip()]
    detail = " | ".join(dict.fromkeys(texts))[:300]
    if len(texts) == 1 and family(texts[0]) is not None:  # an id already, as records and settings give it
        return texts[0] if texts[0] in (US_GOVERNMENT, PUBLIC_DOMAIN) else texts[0].upper(), detail
    return _together([_read(text) for text in texts]), detail


def family(licence: str) -> str | None:
    """The family of a licence id (``CC-BY-NC-4.0`` -> ``cc-by-nc``); public domain counts with ``cc0``; None if unknown."""
    if licence in (CC0, US_GOVERNMENT, PUBLIC_DOMAIN):
        return "cc0"
    match = _ID.fullmatch(licence.lower())
    return match[1] if match else None


def _together(readings: list[_Reading]) -> str:
    """One licence from all statements: the union of what they ask for."""
    found = [evidence for reading in readings for evidence in reading.evidence]
    if any(elements is None for elements, _ in found):
        return UNKNOWN
    stated = [(elements, version) for elements, version in found if elements is not None]
    if any(reading.for_data for reading in readings):
        stated = [(elements, version) for elements, version in stated if elements]
    restrictions: frozenset[str] = frozenset().union(*(reading.restrictions for reading in readings))
    elements: frozenset[str] = frozenset().union(*(elements for elements, _ in stated))
    if elements <= {"PD"}:  # CC0, public domain, or nothing said
        if restrictions or any(reading.other_terms for reading in readings):
            return UNKNOWN
        return CC0 if stated and not elements else _public_domain(readings, marked=bool(elements))
    elements = (elements | restrictions) - {"PD"}
    if {"ND", "SA"} <= elements:  # no such licence: two statements contradict each other
        return UNKNOWN
    version = next((version for each, version in stated if each == elements and version), "")
    name = "-".join(part for part in ("BY", "NC", "ND", "SA") if part in elements)
    return f"CC-{name}" + (f"-{version}" if version else "")


def _public_domain(readings: list[_Reading], marked: bool) -> str:
    kinds = {reading.public for reading in readings} - {""}
    if UNKNOWN in kinds:
        return UNKNOWN
    if US_GOVERNMENT in kinds:
        return US_GOVERNMENT
    return PUBLIC_DOMAIN if marked or kinds else UNKNOWN


@lru_cache(4096)  # publishers repeat themselves: 702 articles make 2,830 statements, 375 of them different
def _read(text: str) -> _Reading:
    if len(text) > _LONGEST:
        return _Reading(((None, ""),), frozenset(), False, "", False)
    restrictions: frozenset[str] = frozenset()
    if _RESTRICTED.search(text):
        plain = _BOTH_USES.sub(" ", text)
        restrictions = frozenset(name for name, pattern in _RESTRICTIONS.items() if pattern.search(plain))
    for_data = _FOR_DATA.search(_LINK.sub("", text)) is not None
    other_terms = _OTHER_TERMS.search(text) is not None
    return _Reading(tuple(_evidence(text, restrictions)), restrictions, for_data, _public(text), other_terms)


def _public(text: str) -> str:
    if _NOT_PUBLIC.search(text):
        return UNKNOWN
    if _GOVERNMENT.search(text):
        return US_GOVERNMENT
    return PUBLIC_DOMAIN if _PUBLIC.search(text) else ""


def _evidence(text: str, restrictions: frozenset[str]) -> Iterator[Evidence]:
    if _BARE_CODE.fullmatch(text):
        yield _elements(text.lower()), ""
    if not _CREATIVE.search(text) and "reativecommon" not in text:
        return
    for path in _LINK.findall(text):
        yield from _from_link(unquote(path).lower().replace(" ", ""))
    words = _LINK.sub(" ", text)
    for by, first, rest, version, last, port in _SHORT.findall(words):
        elements = frozenset(re.findall("NC|ND|SA", (first + last).upper())) | {"BY"}
        yield None if rest or not by else elements, _version(version, port)
    if _CREATIVE.search(words):
        yield from _from_prose(words, restrictions)


def _from_link(path: str) -> Iterator[Evidence]:
    """What follows creativecommons.org/; a page about licences in general says nothing, a code it cannot read is malformed."""
    match = _LINK_PATH.match(path)
    if match is None:
        if re.search(r"by|zero|licen[sc]es?.", path):
            yield None, ""
        return
    public, code, version, port = match[1], (match[2] or "").rstrip("."), match[3] or "", match[4] or ""
    if public or code == "publicdomain":
        known = {"zero": frozenset[str](), "mark": frozenset({"PD"}), "publicdomain": frozenset({"PD"})}
        yield known.get(code), version
    elif code:
        yield _elements(code), _version(version, port)


def _elements(code: str) -> frozenset[str] | None:
    """``by-nc-nd`` -> {BY, NC, ND}; None if a part is unknown, missing or said twice."""
    parts = re.split(f"[{_DASH}]", code)
    sound = len(set(parts)) == len(parts) and "by" in parts and set(parts) <= {"by", "nc", "nd", "sa"}
    return frozenset(part.upper() for part in parts) if sound else None


def _version(version: str, port: str) -> str:
    """A version that exists, with its port (those ended with 3.0); ``en`` is the language of a page."""
    if version not in _VERSIONS:
        return ""
    return f"{version}-{port.upper()}" if port and version < "4" and port != "en" else version


def _from_prose(words: str, restrictions: frozenset[str]) -> Iterator[Evidence]:
    """Licence names written out. Restrictions count wherever they stand in a statement that speaks of Creative Commons."""
    version = _VERSION.search(words)
    if restrictions or _ATTRIBUTION.search(words):
        yield restrictions | {"BY"}, _version(version[1], "") if version else ""
    elif _ZERO.search(words):
        yield frozenset(), ""
