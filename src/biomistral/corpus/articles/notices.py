"""Articles that were retracted or withdrawn, and the notices that say so: told by type, links to others, and title."""

import re
from collections.abc import Iterable

ARTICLE_TYPES = frozenset(("retraction", "partial-retraction", "retracted-article", "withdrawal", "withdrawn-article", "removal",
                           "expression-of-concern"))
RELATED_TYPES = ARTICLE_TYPES | frozenset(("retraction-forward", "retracted", "object-of-concern", "concern-forward",
                                           "expression-of-concern-forward", "withdrawal-forward"))
"""``related-article-type`` of a notice's link to its article, and of an article's link to the notice ("-forward")."""

_STAMP = (r"retracted(?:[ -]article)?|withdrawn(?:[ -]article)?|article (?:retracted|withdrawn)|temporary removal|removed"
          r"|artigo retratado|retratado|art[ií]culo retractado|retractado|article rétracté|rétracté|zurückgezogen(?:er artikel)?"
          r"|ritirato|articolo ritirato|отозвана|撤稿|撤回")
_NOTICE = (r"(?:notice of |statement of |editorial )?(?:retraction|withdrawal|removal)(?: note| notice| statement)?"
           r"|(?:editorial )?(?:expression|note) of concern|retratação|nota de retratação|retractación"
           r"|(?:aviso|nota) de retractación"
           r"|rétractation|avis de (?:retrait|rétractation)|retraktion|ritrattazione|ретракция"
           r"|expres+(?:ão|ión) de preocupa(?:ção|ción)|expression de (?:réserve|préoccupation)")
_TITLE = re.compile(
    rf"^\W*(?:{_STAMP})\s*(?:[:\]).\-\u2010-\u2015|：]|$)|^\W*(?:{_NOTICE})\s*(?:[:\].\u2013\u2014|：]|$)"
    r"|^\W*(?:notice of|statement of) (?:retraction|withdrawal)\b"
    r"|^\W*(?:retraction|withdrawal|removal) (?:note|notice|statement)\b"
    r"|^\W*(?:retraction|withdrawal) (?:to|of|for)\W+(?:(?:the|this|an) )?(?:article|paper|publication|manuscript|[\"“‘'«])"
    r"|^\W*(?:editorial )?expression of concern\b|^\W*(?:nota|aviso) de retracta?ta?ción\b|^\W*nota de retratação\b"
    rf"|[\[(](?:{_STAMP})[\])]\W*$", re.IGNORECASE)


def withdrawn(article_type: str, related_types: Iterable[str], title: str) -> str | None:
    """What says that a document is retracted, withdrawn or doubted by its journal; None if nothing does."""
    if article_type.lower() in ARTICLE_TYPES:
        return f"article type {article_type}"
    related = next((kind for kind in related_types if kind.lower() in RELATED_TYPES), None)
    if related is not None:
        return f"related article: {related}"
    return f"title: {title}" if _TITLE.search(title) else None
