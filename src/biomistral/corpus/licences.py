"""The licence gate: what an article says about its licence, as one SPDX-like id, or nothing when that is not certain.

Publishers state a licence up to four times (link, ``license-type``, ``ali:license_ref``, prose) and not always the same
one. Every statement counts: the result carries all restrictions any of them names, and one malformed Creative Commons
code ("by-ncnd", "by-n") makes the licence unknown, so that nothing passes as free by a misprint.
"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

CC0 = "CC0-1.0"
US_GOVERNMENT = "PD-US-Gov"
PUBLIC_DOMAIN = "PD"
UNKNOWN = "unknown"

_DASH = "\\-\u2010-\u2015_"
_URL = re.compile(r"creativecommons\.org/+(licen[sc]es?|publicdomain)/+([^/\s\"'<>()\[\],;]*)(?:/+\s?(\d\.\d))?", re.IGNORECASE)
_SHORT = re.compile(rf"(?:\bcc|creative ?commons)[\s{_DASH}]*by((?:[\s,{_DASH}]*(?:nc|nd|sa)(?![a-z]))*)"
                    rf"([{_DASH}]?(?!licen)[a-z]+)?(?:[\s{_DASH}]*(\d\.\d))?", re.IGNORECASE)
_CREATIVE = re.compile(r"creative\s*commons|\bcc(?:\b|[\s-]?(?:0|zero))", re.IGNORECASE)
_ATTRIBUTION = re.compile(r"attribution|atribu|attribuzione|namensnennung|paternité|reconocimiento", re.IGNORECASE)
_ZERO = re.compile(r"\bcc[\s-]?(?:0|zero)\b|creative\s+commons\s+(?:zero|(?:cc0\s+)?public\s+domain)"
                   r"|public\s+domain\s+dedication", re.IGNORECASE)
_BOTH_USES = re.compile(rf"commercial(?:ly)?\s*(?:and|or|&|as well as|/)\s*non[\s{_DASH}]?commercial|"
                        rf"non[\s{_DASH}]?commercial(?:ly)?\s*(?:and|or|&|as well as|/)\s*commercial", re.IGNORECASE)
_RESTRICTIONS = {
    "NC": re.compile(rf"non?[\s{_DASH}]*commercial|não[\s{_DASH}]*comercial|no[\s{_DASH}]+comercial|nicht[\s{_DASH}]*kommerziell"
                     rf"|(?:sem fins|sin fines) (?:comercia|lucrativos|de lucro)|pas d.utilisation commerciale"
                     r"|for commercial re-?use,? please contact", re.IGNORECASE),
    "ND": re.compile(rf"no[\s{_DASH}]*deriv|sem deriva|sin deriva|sin obras? derivadas?|keine bearbeitung", re.IGNORECASE),
    "SA": re.compile(rf"share[\s{_DASH}]*alike|compartilha ?igual|compartir ?igual", re.IGNORECASE),
}
_VERSION = re.compile(r"(?:licen[sc]e|international|unported|attribution\S*|alike|derivs|derivatives|commercial|\bby)"
                      r"[\s,(v]*(\d\.\d)", re.IGNORECASE)
_NOT_PUBLIC = re.compile(r"not (?:in|within|part of|considered) (?:the )?public domain", re.IGNORECASE)
_GOVERNMENT = re.compile(r"\bus-?gov|u\.?\s?s\.? government|united states government|government work"
                         r"|federal (?:employee|government)", re.IGNORECASE)

Evidence = tuple[frozenset[str] | None, str]
"""The elements of a licence (BY, NC, ND, SA; PD: public domain; none: CC0), or None if malformed; and the version, or ''."""


def identify(statements: Iterable[str]) -> tuple[str, str]:
    """The licence that all statements together allow, and the words it rests on.

    Returns ``("CC-BY-NC-4.0", evidence)``, or ``("unknown", what was seen)`` if they name none, or a malformed one.
    """
    texts = [" ".join(text.split()) for text in statements if text.strip()]
    detail = " | ".join(dict.fromkeys(texts))[:300]
    if len(texts) == 1 and family(texts[0]) is not None:  # an id already, as records and settings give it
        return texts[0] if texts[0] in (US_GOVERNMENT, PUBLIC_DOMAIN) else texts[0].upper(), detail
    found = [evidence for text in texts for evidence in _evidence(text)]
    if not found:
        return _public_domain(" ".join(texts)), detail
    if any(elements is None for elements, _ in found):
        return UNKNOWN, detail
    elements = frozenset().union(*(each for each, _ in found if each is not None))
    if {"ND", "SA"} <= elements:  # no such licence: two statements contradict each other
        return UNKNOWN, detail
    if elements <= {"PD"}:
        return (_public_domain(" ".join(texts)) if elements else CC0), detail
    elements -= {"PD"}
    versions = [version for each, version in found if each == elements and version]
    name = "-".join(part for part in ("BY", "NC", "ND", "SA") if part in elements)
    return f"CC-{name}" + (f"-{versions[0]}" if versions else ""), detail


def family(licence: str) -> str | None:
    """The family of a licence id (``CC-BY-NC-4.0`` -> ``cc-by-nc``); public domain counts with ``cc0``; None if unknown."""
    if licence in (CC0, US_GOVERNMENT, PUBLIC_DOMAIN):
        return "cc0"
    match = re.fullmatch(r"(cc-by(?:-nc)?(?:-sa|-nd)?)(?:-\d\.\d)?", licence.lower())
    return match[1] if match else None


def _evidence(text: str) -> Iterator[Evidence]:
    for kind, code, version in _URL.findall(text):
        yield from _from_url(kind.lower(), unquote(code).lower().rstrip("."), version)
    words = _URL.sub(" ", text)
    for suffix, rest, version in _SHORT.findall(words):
        elements = frozenset(re.findall("NC|ND|SA", suffix.upper())) | {"BY"}
        yield None if rest else elements, version
    if _CREATIVE.search(words):
        yield from _from_prose(words)


def _from_url(kind: str, code: str, version: str) -> Iterator[Evidence]:
    if kind == "publicdomain" or code == "publicdomain":
        known = {"zero": frozenset[str](), "mark": frozenset({"PD"}), "publicdomain": frozenset({"PD"})}
        yield known.get(code), version
    elif code:
        parts = code.split("-")
        sound = len(set(parts)) == len(parts) and "by" in parts and set(parts) <= {"by", "nc", "nd", "sa"}
        yield frozenset(part.upper() for part in parts) if sound else None, version


def _from_prose(words: str) -> Iterator[Evidence]:
    """Licence names written out. Restrictions count wherever they stand in a statement that speaks of Creative Commons."""
    plain = _BOTH_USES.sub(" ", words)
    elements = {name for name, pattern in _RESTRICTIONS.items() if pattern.search(plain)}
    version = _VERSION.search(words)
    if elements or _ATTRIBUTION.search(words):
        yield frozenset(elements | {"BY"}), version[1] if version else ""
    elif _ZERO.search(words):
        yield frozenset(), ""


def _public_domain(text: str) -> str:
    if _NOT_PUBLIC.search(text):
        return UNKNOWN
    if re.search(r"public[\s-]?domain", text, re.IGNORECASE) or _GOVERNMENT.search(text):
        return US_GOVERNMENT if _GOVERNMENT.search(text) else PUBLIC_DOMAIN
    return UNKNOWN
