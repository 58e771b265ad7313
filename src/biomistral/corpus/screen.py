"""What happens to each raw document by itself: parse, licence, type, language, quality, decontamination, signature, tokens.

Pure functions over one batch, run in worker processes; a document leaves as a row that is kept or says why not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from biomistral.corpus.articles import jats, licences, notices
from biomistral.corpus.articles.jats_text import TextRules, plain
from biomistral.corpus.cleaning import decontaminate, dedup, filters
from biomistral.corpus.cleaning.language import UNKNOWN, Language, language_of, normal
from biomistral.corpus.cleaning.shingles import Words, words_of
from biomistral.corpus.packing.pieces import Packer
from biomistral.corpus.settings import CorpusSettings
from biomistral.corpus.sources.units import Item
from biomistral.records import DOCUMENT_SCHEMA

CANDIDATE_SCHEMA = pa.schema([
    *DOCUMENT_SCHEMA, ("language_detected", pa.string()), ("updated", pa.string()), ("pieces", pa.int32()),
    ("digest", pa.binary()), ("signature", pa.binary()), ("matches", pa.list_(decontaminate.MATCH)),
    ("losses", pa.list_(decontaminate.LOSS)), ("reason", pa.string()), ("detail", pa.string()),
])
"""A document with what the later steps need; ``reason`` is null if it passed. A refused one has no text and no tokens."""

_LONGEST_DETAIL = 500
_CONTROLS = dict.fromkeys([*range(9), *range(14, 32)])


@dataclass(frozen=True)
class Batch:
    """The work of one call of a worker: raw items of a source, or code articles that are drafts already."""

    source: str
    licence: str | None
    items: list[Item]
    drafts: list["Draft"]


@dataclass(frozen=True)
class Screened:
    """A batch that is done: one row a document, the kept ones' tokens and pieces as bytes (`packing.token_store`)."""

    table: pa.Table
    tokens: bytes
    pieces: bytes


@dataclass(frozen=True)
class Rules:
    """What a document must be like, and how its text is told in tokens."""

    settings: CorpusSettings
    packer: Packer
    index: decontaminate.QuestionIndex | None
    detect: bool
    seed: int
    """Of the signatures."""

    @property
    def text(self) -> TextRules:
        return TextRules(self.settings.tables, self.settings.footnotes, self.settings.citations)


@dataclass(frozen=True)
class Draft:
    """A document on its way; ``reason`` is set once it is refused."""

    id: str
    source: str
    text: str = ""
    title: str = ""
    licence: str = ""
    language: Language = Language(UNKNOWN, UNKNOWN)  # noqa: RUF009 (frozen)
    year: int | None = None
    journal: str = ""
    sections: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    url: str = ""
    article_type: str = ""
    pmid: str = ""
    doi: str = ""
    relations: tuple[str, ...] = ()
    updated: str = ""
    evidence: str = ""
    ours: bool = False
    """Written by this package about a code list: the quality filters and de-duplication do not apply."""
    words: Words | None = None
    matches: tuple[dict[str, str], ...] = ()
    losses: tuple[dict[str, Any], ...] = ()
    """What decontamination cost, by task."""
    reason: str | None = None
    detail: str = ""

    def refused(self, reason: str, detail: str) -> "Draft":
        return replace(self, reason=reason, detail=detail)


def screen(rules: Rules, batch: Batch) -> Screened:
    """Apply every rule to every document of a batch; rows in the same order."""
    drafts = batch.drafts or [draft for item in batch.items for draft in drafts_of(item, batch.source, batch.licence, rules.text)]
    done = [_screen(draft, rules) for draft in drafts]
    kept = [draft for draft in done if draft.reason is None]
    pieces = rules.packer.documents([draft.text for draft in kept])
    counts = zip(pieces.tokens_per_document().tolist(), pieces.per_document.tolist(), strict=True)
    counted = {id(draft): count for draft, count in zip(kept, counts, strict=True)}
    signatures = _signatures(kept, rules)
    rows = [_row(draft, *counted.get(id(draft), (0, 0)), signatures.get(id(draft))) for draft in done]
    return Screened(
        pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA), pieces.tokens.astype(rules.packer.dtype).tobytes(),
        np.stack((pieces.lengths, pieces.num_bytes), axis=1).astype(np.int32).tobytes())


def _signatures(kept: list[Draft], rules: Rules) -> dict[int, bytes]:
    """MinHash signatures by the drafts' identity; code articles have none: each retells others on purpose."""
    if rules.settings.deduplicate is None:
        return {}
    signed = [draft for draft in kept if not draft.ours]
    rows = dedup.signatures([draft.words for draft in signed if draft.words is not None], rules.seed)
    return {id(draft): row.tobytes() for draft, row in zip(signed, rows, strict=True)}


def drafts_of(item: Item, source: str, default_licence: str | None, text_rules: TextRules) -> Iterator[Draft]:
    """Parse a raw item: an XML file may hold several articles."""
    unnamed = f"{source}:{item.name}"
    if item.reason:
        yield Draft(unnamed, source).refused(item.reason, item.detail)
    elif item.record is not None:
        yield _from_record(item, unnamed, source, default_licence)
    else:
        try:
            articles = jats.parse(item.data, text_rules)
        except jats.MalformedError as error:
            yield Draft(unnamed, source).refused(error.reason, str(error))
            return
        for number, article in enumerate(articles):
            yield _from_article(article, item, unnamed if number == 0 else f"{unnamed}.{article.part or number}", source)


def _from_article(article: jats.Article, item: Item, unnamed: str, source: str) -> Draft:
    licence, evidence = licences.identify((*article.licence_statements, *item.statements))
    return Draft(
        article.id or unnamed, source, article.text, article.title, licence, _said(article.language), article.year,
        article.journal, article.sections, article.authors, article.url, article.article_type, article.pmid, article.doi,
        article.relations, item.updated, evidence)


def _said(declared: str | None) -> Language:
    return Language(normal(declared), normal(declared))


def _from_record(item: Item, unnamed: str, source: str, default_licence: str | None) -> Draft:
    record = item.record or {}
    said = record.get("licence") or record.get("license") or default_licence or ""
    licence, evidence = licences.identify([str(said), *item.statements])
    year, authors, name = record.get("year"), record.get("authors") or (), record.get("id")
    listed = authors if isinstance(authors, (list, tuple)) else (authors,)
    title, journal, url, article_type, pmid, doi = (
        _clean(str(record.get(key) or "")) for key in ("title", "journal", "url", "article_type", "pmid", "doi"))
    return Draft(
        _name(_sound(str(name or "")), source) or unnamed, source, _paragraphs(record["text"]), title, licence,
        _said(str(record.get("language") or "")), year if isinstance(year, int) and 0 < year < 3000 else None, journal,
        authors=tuple(_clean(str(author)) for author in listed), url=url, article_type=article_type, pmid=pmid, doi=doi,
        updated=item.updated, evidence=evidence)


def _name(name: str, source: str) -> str:
    """A bare number says nothing outside its source: two files may both count from 1."""
    return f"{source}:{name}" if name.isdigit() else name


def _sound(text: str) -> str:
    """Text that UTF-8 can write: JSON may hold half of a character that needs two."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


def _clean(text: str) -> str:
    return plain(_sound(text).translate(_CONTROLS))


def _paragraphs(text: str) -> str:
    """Clean lines in paragraphs that one blank line separates."""
    text = _sound(text).translate(_CONTROLS)
    blocks = ("\n".join(filter(None, map(plain, part.split("\n")))) for part in text.split("\n\n"))
    return "\n\n".join(filter(None, blocks))


def _screen(draft: Draft, rules: Rules) -> Draft:
    if draft.reason is not None:
        return draft
    settings = rules.settings
    family = licences.family(draft.licence)
    if family is None or family not in settings.licences:
        return draft.refused("licence", f"{draft.licence}: {draft.evidence}" if draft.evidence else "states no licence")
    if settings.filters.retracted and (said := notices.withdrawn(draft.article_type, draft.relations, draft.title)):
        return draft.refused("retracted", said)
    if draft.article_type in settings.skip_article_types:
        return draft.refused("article_type", draft.article_type)
    if draft.ours:
        return _decontaminated(replace(draft, words=words_of(draft.text)), rules)
    draft = replace(draft, language=language_of(draft.language.declared, draft.text, rules.detect))
    if settings.languages and draft.language.language not in settings.languages:
        return draft.refused("language", draft.language.language)
    words = words_of(draft.text)
    if poor := filters.quality(draft.text, words, settings):
        return draft.refused(*poor)
    return _decontaminated(replace(draft, words=words), rules)


def _decontaminated(draft: Draft, rules: Rules) -> Draft:
    if rules.index is None:
        return draft
    assert draft.words is not None
    matches = rules.index.matches(draft.text, draft.words)
    if not matches:
        return draft
    listed = tuple({"question": match.question, "task": match.task, "field": match.field,
                    "span": decontaminate.span(draft.text, match)} for match in matches)
    drop = rules.settings.decontaminate_policy == "drop"
    before, draft = draft.words, replace(draft, matches=listed)
    draft = replace(draft, losses=tuple(decontaminate.losses(draft.text, before, matches, drop)))
    seen = f"{len(matches)} matches, first {matches[0].question}: {listed[0]['span']}"
    if drop:
        return draft.refused("contaminated", seen)
    text = decontaminate.cut(draft.text, matches)
    words = words_of(text)
    if len(words) < rules.settings.min_words:
        losses = decontaminate.losses(draft.text, before, matches, dropped=True)
        return replace(draft, losses=tuple(losses)).refused("contaminated", f"{seen} (after the cut {len(words)} words are left)")
    return replace(draft, text=text, words=words)


def _row(draft: Draft, tokens: int, pieces: int, signature: bytes | None) -> dict[str, Any]:
    kept = draft.reason is None
    words = draft.words if kept and draft.words is not None else None
    return {
        "id": draft.id, "title": draft.title, "text": draft.text if kept else "", "licence": draft.licence,
        "language": draft.language.language, "source": draft.source, "year": draft.year, "journal": draft.journal,
        "article_type": draft.article_type, "sections": draft.sections, "authors": draft.authors, "pmid": draft.pmid,
        "doi": draft.doi, "url": draft.url, "language_declared": draft.language.declared,
        "language_detected": draft.language.detected, "updated": draft.updated, "words": len(words) if words else 0,
        "tokens": tokens, "pieces": pieces, "digest": dedup.digest(words) if words else b"", "signature": signature,
        "matches": draft.matches, "losses": draft.losses, "reason": draft.reason, "detail": draft.detail[:_LONGEST_DETAIL]}

