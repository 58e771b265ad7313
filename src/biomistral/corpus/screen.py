"""What happens to each raw document by itself: parse, licence, type, language, quality, decontamination, signature.

Pure functions over one batch, run in worker processes; a document leaves as a row that is kept or says why not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from biomistral.corpus import decontaminate, dedup, filters, jats, language, licences
from biomistral.corpus.jats_text import plain
from biomistral.corpus.shingles import Words, words_of
from biomistral.corpus.sources import Item
from biomistral.records import DOCUMENT_SCHEMA

MATCH = pa.struct([("question", pa.string()), ("task", pa.string()), ("field", pa.string()), ("span", pa.string())])
CANDIDATE_SCHEMA = pa.schema([
    *DOCUMENT_SCHEMA, ("words", pa.int32()), ("digest", pa.binary()), ("signature", pa.binary()),
    ("matches", pa.list_(MATCH)), ("reason", pa.string()), ("detail", pa.string()),
])
"""A document with what the later steps need; ``reason`` is null if it passed. A refused one has no text."""


@dataclass(frozen=True)
class Rules:
    """What a document must be like."""

    licences: frozenset[str]
    languages: frozenset[str]
    detect: bool
    skip_article_types: frozenset[str]
    min_words: int
    max_repetition: float
    index: decontaminate.QuestionIndex | None
    policy: str
    near: bool
    seed: int


@dataclass(frozen=True)
class Draft:
    """A document on its way; ``reason`` is set once it is refused."""

    id: str
    source: str
    text: str = ""
    title: str = ""
    licence: str = ""
    language: str = language.UNKNOWN
    year: int | None = None
    journal: str = ""
    sections: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    url: str = ""
    article_type: str = ""
    evidence: str = ""
    ours: bool = False
    """Written by this package about a code list: the quality filters and de-duplication do not apply."""
    words: Words | None = None
    matches: tuple[dict[str, str], ...] = field(default=())
    reason: str | None = None
    detail: str = ""

    def refused(self, reason: str, detail: str) -> "Draft":
        return replace(self, reason=reason, detail=detail, text="")


def screen(drafts: list[Draft], rules: Rules) -> pa.Table:
    """Apply every rule to every draft; rows in the same order."""
    done = [_screen(draft, rules) for draft in drafts]
    signed = [draft for draft in done if draft.reason is None and not draft.ours and draft.words is not None]
    rows = dedup.signatures([draft.words for draft in signed if draft.words], rules.seed) if rules.near else []
    signatures = {id(draft): row.tobytes() for draft, row in zip(signed, rows, strict=False)}
    return pa.Table.from_pylist([_row(draft, signatures.get(id(draft))) for draft in done], schema=CANDIDATE_SCHEMA)


def drafts_of(items: list[Item], source: str, default_licence: str | None) -> list[Draft]:
    """Parse raw items: an XML file may hold several articles."""
    return [draft for item in items for draft in _drafts(item, source, default_licence)]


def _drafts(item: Item, source: str, default_licence: str | None) -> Iterator[Draft]:
    unnamed = f"{source}:{item.name}"
    if item.reason:
        yield Draft(unnamed, source).refused(item.reason, item.detail)
    elif item.record is not None:
        yield _from_record(item.record, unnamed, source, default_licence)
    else:
        try:
            articles = jats.parse(item.data)
        except jats.MalformedError as error:
            yield Draft(unnamed, source).refused(error.reason, str(error))
            return
        for number, article in enumerate(articles):
            yield _from_article(article, unnamed if number == 0 else f"{unnamed}.{article.part or number}", source)


def _from_article(article: jats.Article, unnamed: str, source: str) -> Draft:
    licence, evidence = licences.identify(article.licence_statements)
    return Draft(article.id or unnamed, source, article.text, article.title, licence, article.language, article.year,
                 article.journal, article.sections, article.authors, article.url, article.article_type, evidence)


def _from_record(record: dict[str, Any], unnamed: str, source: str, default_licence: str | None) -> Draft:
    said = record.get("licence") or record.get("license") or default_licence or ""
    licence, evidence = licences.identify([str(said)])
    year, authors, name = record.get("year"), record.get("authors") or (), record.get("id")
    listed = tuple(map(str, authors)) if isinstance(authors, (list, tuple)) else (str(authors),)
    return Draft(
        str(name) if name not in (None, "") else unnamed, source, _paragraphs(record["text"]),
        plain(str(record.get("title") or "")), licence, str(record.get("language") or language.UNKNOWN),
        year=year if isinstance(year, int) and 0 < year < 3000 else None, journal=plain(str(record.get("journal") or "")),
        authors=listed, url=str(record.get("url") or ""), evidence=evidence)


def _paragraphs(text: str) -> str:
    """Clean lines in paragraphs that one blank line separates."""
    blocks = ("\n".join(filter(None, map(plain, part.split("\n")))) for part in text.split("\n\n"))
    return "\n\n".join(filter(None, blocks))


def _screen(draft: Draft, rules: Rules) -> Draft:
    if draft.reason is not None:
        return draft
    family = licences.family(draft.licence)
    if family is None or family not in rules.licences:
        return draft.refused("licence", f"{draft.licence}: {draft.evidence}" if draft.evidence else "states no licence")
    if draft.article_type in rules.skip_article_types:
        return draft.refused("article_type", draft.article_type)
    if draft.ours:
        return _decontaminated(replace(draft, words=words_of(draft.text)), rules)
    draft = replace(draft, language=language.language_of(draft.language, draft.text, rules.detect))
    if rules.languages and draft.language not in rules.languages:
        return draft.refused("language", draft.language)
    words = words_of(draft.text)
    if poor := filters.quality(draft.text, words, rules.min_words, rules.max_repetition):
        return draft.refused(*poor)
    return _decontaminated(replace(draft, words=words), rules)


def _decontaminated(draft: Draft, rules: Rules) -> Draft:
    if rules.index is None or draft.words is None:
        return draft
    matches = rules.index.matches(draft.text, draft.words)
    if not matches:
        return draft
    listed = tuple({"question": match.question, "task": match.task, "field": match.field,
                    "span": decontaminate.span(draft.text, match)} for match in matches)
    draft = replace(draft, matches=listed)
    seen = f"{len(matches)} matches, first {matches[0].question}: {listed[0]['span']}"
    if rules.policy == "drop":
        return draft.refused("contaminated", seen)
    text = decontaminate.cut(draft.text, matches)
    words = words_of(text)
    if len(words) < rules.min_words:
        return draft.refused("contaminated", f"{seen} (after the cut {len(words)} words are left)")
    return replace(draft, text=text, words=words)


def _row(draft: Draft, signature: bytes | None) -> dict[str, Any]:
    kept = draft.reason is None
    words = draft.words if kept and draft.words is not None else words_of("")
    return {"id": draft.id, "title": draft.title, "text": draft.text if kept else "", "licence": draft.licence,
            "language": draft.language, "source": draft.source, "year": draft.year, "journal": draft.journal,
            "sections": list(draft.sections), "authors": list(draft.authors), "url": draft.url, "words": len(words),
            "digest": dedup.digest(words) if kept else b"", "signature": signature, "matches": list(draft.matches),
            "reason": draft.reason, "detail": draft.detail[:500]}
