"""JATS XML to articles: one parse gives metadata, licence statements and readable text.

The parser resolves no entity, reads no DTD, asks no network and keeps libxml2's limits on depth and size.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lxml import etree

from biomistral.corpus.articles.jats_text import TextRules, TextWriter, dissolve, inline, mended, name_of

_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_HREF = "{http://www.w3.org/1999/xlink}href"
_OTHER_ABSTRACTS = frozenset(("graphical", "toc", "teaser", "precis", "key-points", "web-summary", "video", "translation"))
_YEAR_ORDER = ("epub", "pub", "ppub", "collection")


class MalformedError(Exception):
    """The bytes are not an article: ``reason`` is the word that is counted, the message says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Article:
    """One article, one sub-article (a translation, a decision letter, a reply), or one abstract in another language."""

    pmcid: str
    pmid: str
    doi: str
    part: str
    """``""``, the sub-article's id, or ``abstract-LANGUAGE``."""
    title: str
    journal: str
    year: int | None
    article_type: str
    language: str
    """As declared; JATS says that an article which declares none is English."""
    authors: tuple[str, ...]
    sections: tuple[str, ...]
    licence_statements: tuple[str, ...]
    text: str
    """Title, abstract and body, a blank line between blocks."""
    relations: tuple[str, ...] = ()
    """Types of the related articles it names, e.g. ``retracted-article`` (it is a notice), ``retraction-forward``."""

    @property
    def id(self) -> str:
        """PMCID, else DOI, else ``""``; a sub-article's is its parent's with ``.PART``."""
        own = self.pmcid or self.doi
        return f"{own}.{self.part}" if own and self.part else own

    @property
    def url(self) -> str:
        if self.pmcid:
            return f"https://pmc.ncbi.nlm.nih.gov/articles/{self.pmcid}/"
        return f"https://doi.org/{self.doi}" if self.doi else ""


def parse(data: bytes, rules: TextRules = TextRules()) -> list[Article]:  # noqa: B008 (frozen)
    """The articles in an XML file: usually one, and its sub-articles; more in an ``articleset`` or OAI answer.

    Raises:
        MalformedError: not XML, no article in it, nested too deep, or it uses entities of its own.
    """
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False,
                             remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise MalformedError("malformed", " ".join((error.msg or "not XML").split())) from error
    except LookupError as error:
        raise MalformedError("encoding", str(error)) from error
    for entity in root.iter(etree.Entity):
        if html.unescape(entity.text or "") == entity.text:
            raise MalformedError("entities", f"line {entity.sourceline}: entity {entity.text} is not one of HTML's")
    articles = [root] if name_of(root) == "article" else [
        found for found in root.iter("{*}article") if next(found.iterancestors("{*}article"), None) is None]
    if not articles:
        raise MalformedError("not_an_article", f"the outermost element is <{name_of(root)}>")
    try:
        return [article for element in articles for article in _with_parts(element, rules)]
    except RecursionError as error:
        raise MalformedError("malformed", "elements are nested too deep") from error


def _with_parts(element: Any, rules: TextRules) -> Iterator[Article]:
    main = _article(element, rules)
    yield main
    yield from _abstracts(_find(element, "front/article-meta"), main, rules)
    yield from _parts(element, main, rules)


def _parts(element: Any, main: Article, rules: TextRules) -> Iterator[Article]:
    """The sub-articles and responses, and theirs."""
    for kind in ("sub-article", "response"):
        for number, child in enumerate(element.iterfind("{*}" + kind), 1):
            part = _part(child, main, f"{kind}{number}", rules)
            yield part
            yield from _abstracts(_stub(child), part, rules)
            yield from _parts(child, part, rules)


def _article(element: Any, rules: TextRules) -> Article:
    journal = _find(element, "front/journal-meta")
    meta = _find(element, "front/article-meta")
    language = element.get(_LANG) or "en"
    text, title, sections = _text(element, meta, language, rules)
    return Article(
        pmcid=_pmcid(meta), pmid=_identifier(meta, "pmid"), doi=_identifier(meta, "doi").lower(), part="", title=title,
        journal=_first_text(journal, ".//{*}journal-title") or _first_text(journal, ".//{*}abbrev-journal-title"),
        year=_year(meta), article_type=element.get("article-type", ""), language=language,
        authors=_authors(meta), sections=sections, licence_statements=tuple(_licence_statements(meta)), text=text,
        relations=_relations(meta))


def _part(element: Any, main: Article, unnamed: str, rules: TextRules) -> Article:
    """A sub-article: what it does not say itself, it has from the article it belongs to."""
    meta = _stub(element)
    language = element.get(_LANG) or main.language
    text, title, sections = _text(element, meta, language, rules)
    own_type = element.get("article-type") or element.get("response-type") or name_of(element)
    return replace(
        main, part=".".join(filter(None, (main.part, element.get("id") or unnamed))), title=title or main.title,
        article_type=own_type, language=language, authors=_authors(meta) or main.authors, sections=sections, text=text,
        licence_statements=tuple(_licence_statements(meta)) or main.licence_statements, relations=_relations(meta))


def _abstracts(meta: Any, main: Article, rules: TextRules) -> Iterator[Article]:
    """Abstracts in other languages: a document each, under their translated title."""
    if meta is None:
        return
    titles = {_language_of(group, ""): _first_text(group, "{*}trans-title") for group in meta.iter("{*}trans-title-group")}
    seen: set[str] = set()
    for abstract in (*meta.iterfind("{*}trans-abstract"), *meta.iterfind("{*}abstract")):
        language = _language_of(abstract, "" if name_of(abstract) == "trans-abstract" else main.language)
        if _same(language, main.language) or abstract.get("abstract-type", "") in _OTHER_ABSTRACTS - {"translation"}:
            continue
        dissolve(abstract)
        writer = TextWriter(rules)
        writer.write(abstract)
        title = titles.get(language, "")
        number = f"-{len(seen) + 1}" if language in seen else ""
        seen.add(language)
        yield replace(main, part=".".join(filter(None, (main.part, f"abstract-{language or 'und'}{number}"))), title=title,
                      article_type="abstract", language=language or "und", sections=(),
                      text=mended("\n\n".join([title, *writer.blocks] if title else writer.blocks)))


def _language_of(element: Any, default: str) -> str:
    return str(element.get(_LANG) or default)


def _same(language: str, other: str) -> bool:
    """Whether two tags name one language: en-US and EN do."""
    return language.partition("-")[0].lower() == other.partition("-")[0].lower()


def _stub(element: Any) -> Any:
    """The metadata of a sub-article."""
    stub = _find(element, "front-stub")
    return stub if stub is not None else _find(element, "front/article-meta")


def _relations(meta: Any) -> tuple[str, ...]:
    places = meta.iterfind("{*}related-article") if meta is not None else ()
    return tuple(str(found.get("related-article-type")) for found in places if found.get("related-article-type"))


def _find(element: Any, path: str) -> Any:
    """The first element at a path of local names, or None."""
    return None if element is None else element.find("/".join("{*}" + step for step in path.split("/")))


def _first_text(element: Any, path: str) -> str:
    found = None if element is None else element.find(path)
    return "" if found is None else mended(inline(found))


# ---- metadata -------------------------------------------------------------------------------------------------------


def _identifier(meta: Any, kind: str) -> str:
    for found in meta.iterfind("{*}article-id") if meta is not None else ():
        if found.get("pub-id-type") == kind:
            return "".join("".join(found.itertext()).split())
    return ""


def _pmcid(meta: Any) -> str:
    for kind in ("pmcid", "pmc", "pmcaid"):
        match = re.fullmatch(r"(?:PMC)?(\d+)(?:\.\d+)?", _identifier(meta, kind), re.IGNORECASE)
        if match:
            return f"PMC{match[1]}"
    return ""


def _year(meta: Any) -> int | None:
    """The year of first publication: electronic, else print, else the collection's."""
    years: dict[str, int] = {}
    for date in meta.iterfind("{*}pub-date") if meta is not None else ():
        text = _first_text(date, "{*}year")
        if re.fullmatch(r"1[5-9]\d\d|20\d\d", text):
            years.setdefault(date.get("pub-type") or date.get("date-type") or "", int(text))
    return next((years[kind] for kind in _YEAR_ORDER if kind in years), min(years.values(), default=None))


def _authors(meta: Any) -> tuple[str, ...]:
    """Given name and surname, or the group's name, in order."""
    names = []
    for contributor in meta.iterfind("{*}contrib-group/{*}contrib") if meta is not None else ():
        if contributor.get("contrib-type", "author") != "author":
            continue
        parts = [_first_text(contributor, f".//{{*}}{tag}") for tag in ("given-names", "surname")]
        name = " ".join(part for part in parts if part)
        name = name or _first_text(contributor, "{*}collab") or _first_text(contributor, ".//{*}string-name")
        names += [name] if name else []
    return tuple(names)


def _licence_statements(meta: Any) -> Iterator[str]:
    """Links, types and prose of the article's licence (not of figures in it), and its copyright statement."""
    if meta is None:
        return
    for place in (*meta.iterfind("{*}permissions"), *meta.iterfind("{*}license"), *meta.iterfind("{*}copyright-statement")):
        for element in place.iter():
            name = name_of(element)
            yield from (value for value in (element.get(_HREF), element.get("href")) if value)
            if name == "license" and element.get("license-type"):
                yield str(element.get("license-type"))
            if name == "license_ref" and element.text:
                yield element.text
        for outer in (place, *place):  # the words of one licence once, however it nests
            if name_of(outer) in ("license", "copyright-statement"):
                yield "".join(outer.itertext())


# ---- text -----------------------------------------------------------------------------------------------------------


def _text(element: Any, meta: Any, language: str, rules: TextRules) -> tuple[str, str, tuple[str, ...]]:
    """Text, title and the headings of the body's sections."""
    title = _first_text(meta, "{*}title-group/{*}article-title") or _first_text(meta, "{*}article-title")
    writer = TextWriter(rules)
    for abstract in meta.iterfind("{*}abstract") if meta is not None else ():
        own = _same(_language_of(abstract, language), language)
        if own and abstract.get("abstract-type", "") not in _OTHER_ABSTRACTS:
            dissolve(abstract)
            writer.write(abstract)
    body = _find(element, "body")
    for place in (body, *(_find(element, name) for name in ("back", "floats-group", "floats-wrap"))):
        if place is not None:
            dissolve(place)
            writer.write(place)
    headings = [_first_text(section, "{*}title") for section in body.iterfind("{*}sec")] if body is not None else []
    blocks = [title, *writer.blocks] if title else writer.blocks
    return mended("\n\n".join(blocks)), title, tuple(heading for heading in headings if heading)
