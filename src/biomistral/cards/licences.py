"""The licence of what is made from several works: the most restrictive of theirs, and the reason in a sentence.

The identifiers are the hub's own. What is not known to it becomes ``other``: a card never guesses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

RULE = ("The licence is the most restrictive one of everything that went in: public domain, then permissive, attribution, "
        "share-alike, a model's own terms, non-commercial, no derivatives. What is unknown, or asks for terms that another "
        "one rules out, makes it `other`.")
OTHER = "other"
_PUBLIC, _PERMISSIVE, _ATTRIBUTION, _ALIKE, _TERMS, _NONCOMMERCIAL, _NONCOMMERCIAL_ALIKE, _NO_DERIVATIVES = range(8)
_INHERITED = (_ALIKE, _TERMS, _NONCOMMERCIAL_ALIKE)
"""What is made from these has to carry the same licence."""

_RANKS = {
    **dict.fromkeys(("cc0-1.0", "unlicense", "pddl", "pd", "pd-us-gov"), _PUBLIC),
    **dict.fromkeys(("mit", "isc", "bsd", "bsd-2-clause", "bsd-3-clause", "zlib", "apache-2.0", "cdla-permissive-2.0"),
                    _PERMISSIVE),
    **dict.fromkeys(("cc-by", "odc-by", "etalab-2.0"), _ATTRIBUTION),
    **dict.fromkeys(("cc-by-sa", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "odbl"), _ALIKE),
    **dict.fromkeys(("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "openrail",
                     "bigscience-bloom-rail-1.0", "creativeml-openrail-m"), _TERMS),
    "cc-by-nc": _NONCOMMERCIAL, "cc-by-nc-sa": _NONCOMMERCIAL_ALIKE, "cc-by-nd": _NO_DERIVATIVES, "cc-by-nc-nd": _NO_DERIVATIVES,
}
_NOT_ON_HUB = ("pd", "pd-us-gov")
_ON_HUB = {"cc-by": ("2.0", "2.5", "3.0", "4.0"), "cc-by-sa": ("3.0", "4.0"), "cc-by-nc": ("2.0", "3.0", "4.0"),
           "cc-by-nc-sa": ("2.0", "3.0", "4.0"), "cc-by-nd": ("4.0",), "cc-by-nc-nd": ("3.0", "4.0")}
_CREATIVE = re.compile(r"(cc-by(?:-nc)?(?:-sa|-nd)?)(?:-(\d\.\d))?(?:-[a-z]+)?")
_NOT_STATED = ("", "unknown", "not stated", "none")


@dataclass(frozen=True)
class Part:
    """One work that went in, or many of one licence: ``what`` it is, the licence as it was stated (or None), how many."""

    what: str
    licence: str | None
    count: int = 1
    text: bool = False
    """Whether it is text that a data set would hand on as it stands."""


@dataclass(frozen=True)
class Verdict:
    """``id`` is the hub's; ``name`` and ``sentence`` say what it stands for where it is ``other``."""

    id: str
    name: str | None
    sentence: str
    unknown: tuple[str, ...]


def normal(licence: str | None) -> tuple[str, str] | None:
    """Family and version of a licence as people write it: ``CC BY-NC 4.0`` -> ``("cc-by-nc", "4.0")``; None if unknown."""
    name = re.sub(r"[\s_]+", "-", (licence or "").strip().lower()).removesuffix("-license").removesuffix("-licence")
    if match := _CREATIVE.fullmatch(name):
        return match[1], match[2] or ""
    name = {"cc0": "cc0-1.0", "apache": "apache-2.0", "apache2": "apache-2.0", "public-domain": "pd"}.get(name, name)
    return (name, "") if name in _RANKS and not name.startswith("cc-by") else None


def together(parts: Sequence[Part]) -> Verdict:
    """The licence of what was made from all these; parts that count nothing do not count."""
    parts = [part for part in parts if part.count > 0]
    unknown = tuple(dict.fromkeys(_unknown(part) for part in parts if normal(part.licence) is None))
    if unknown or not parts:
        what = "; ".join(unknown) or "nothing is known of what it was made from"
        return Verdict(OTHER, "unknown", f"Not known: {what}. Ask the makers before you use or share it.", unknown)
    known = [found for part in parts if (found := normal(part.licence))]
    strictest = max(_RANKS[family] for family, _ in known)
    binding = sorted({family for family, _ in known if _RANKS[family] in _INHERITED})
    top = sorted({family for family, _ in known if _RANKS[family] == strictest})
    if len(binding) > 1 or (binding and top != binding):
        names = list(dict.fromkeys([*binding, *top]))
        return Verdict(OTHER, "-and-".join(names)[:60], f"{' and '.join(names)} went in; what is made from {binding[0]} has to "
                       "carry the same licence, and the other rules that out. Whoever publishes it has to decide.", ())
    family = _strictest_by_name(top)
    return _named(family, sorted({version for name, version in known if name == family}))


def stated(licence: str) -> Verdict:
    """A licence that the user names."""
    found = normal(licence)
    slug = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or "custom"  # what the hub allows as a name
    verdict = _named(found[0], [found[1]]) if found else Verdict(OTHER, slug, "", ())
    return Verdict(verdict.id, verdict.name, f"{licence}: this licence was stated by whoever made the card; the table says what "
                   "went in.", ())


def _strictest_by_name(families: list[str]) -> str:
    """Of equally strict ones the one that asks for more: no derivatives and non-commercial before no derivatives, Apache's terms
    before the shorter ones, public domain by dedication before the works of governments."""
    order = ("cc-by-nc-nd", "apache-2.0", "cc-by", "cc0-1.0")
    return next((name for name in order if name in families), families[0])


def _named(family: str, versions: list[str]) -> Verdict:
    """With the highest version; one that the hub does not list, or that nobody stated, is ``other`` or the whole family."""
    if family in _NOT_ON_HUB:
        return Verdict(OTHER, family, "All of it is in the public domain.", ())
    if family not in _ON_HUB:
        return Verdict(family, None, "", ())
    version = max(versions)
    if version in _ON_HUB[family]:
        return Verdict(f"{family}-{version}", None, f"Some of it is under {family} without a version; the highest stated one "
                       "stands for these." if "" in versions else "", ())
    if not version and family == "cc-by":
        return Verdict("cc", None, "It is CC BY; no version was stated.", ())
    return Verdict(OTHER, f"{family}-{version}".rstrip("-"), f"It is {family} {version or 'without a version'}, which the hub "
                   "has no name for.", ())


def _unknown(part: Part) -> str:
    said = (part.licence or "").strip()
    words = f"the licence of {part.what}"
    return words if said.lower() in _NOT_STATED else f"{words} ('{said}')"


def forbidden(parts: Sequence[Part]) -> list[str]:
    """Why texts among these may not be handed on in another form: no derivatives, or a licence nobody knows."""
    found = []
    for part in parts:
        if not part.text or part.count <= 0:
            continue
        known = normal(part.licence)
        if known is None:
            found.append(f"{_unknown(part)} is not known")
        elif _RANKS[known[0]] == _NO_DERIVATIVES:
            found.append(f"{part.what}: {part.licence} allows no altered copies, and a corpus alters its texts")
    return found
