"""JATS XML to articles: one parse gives metadata, licence statements and readable text.

The parser resolves no entity, reads no DTD, asks no network and keeps libxml2's limits on depth and size.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lxml import etree

from biomistral.corpus.jats_text import TextWriter, inline, name_of

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
    """One article, or one sub-article (a translation, a decision letter, a reply)."""

    pmcid: str
    pmid: str
    doi: str
    part: str
    """``""``, or the sub-article's id."""
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


def parse(data: bytes) -> list[Article]:
    """The articles in an XML file: usually one, and its sub-articles; more in an ``articleset`` or OAI answer.

    Raises:
        MalformedError: not XML, no article in it, nested too deep, or it uses entities of its own.
    """
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False,
                             remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise MalformedError("malformed", error.msg or "not XML") from error
    for entity in root.iter(etree.Entity):
        if html.unescape(entity.text or "") == entity.text:
            raise MalformedError("entities", f"line {entity.sourceline}: entity {entity.text} is not one of HTML's")
    articles = [root] if name_of(root) == "article" else list(root.iter("{*}article"))
    if not articles:
        raise MalformedError("not_an_article", f"the outermost element is <{name_of(root)}>")
    try:
        return [article for element in articles for article in _with_parts(element)]
    except RecursionError as error:
        raise MalformedError("malformed", "elements are nested too deep") from error


def _with_parts(element: Any) -> Iterator[Article]:
    main = _article(element)
    yield main
    for number, part in enumerate(element.iterfind("{*}sub-article"), 1):
        yield _part(part, main, number)
    for number, part in enumerate(element.iterfind("{*}response"), 1):
        yield _part(part, main, number)


def _article(element: Any) -> Article:
    journal = _find(element, "front/journal-meta")
    meta = _find(element, "front/article-meta")
    text, title, sections = _text(element, meta)
    return Article(
        pmcid=_pmcid(meta), pmid=_identifier(meta, "pmid"), doi=_identifier(meta, "doi").lower(), part="", title=title,
        journal=_first_text(journal, ".//{*}journal-title") or _first_text(journal, ".//{*}abbrev-journal-title"),
        year=_year(meta), article_type=element.get("article-type", ""), language=element.get(_LANG) or "en",
        authors=_authors(meta), sections=sections, licence_statements=tuple(_licence_statements(meta)), text=text)


def _part(element: Any, main: Article, number: int) -> Article:
    """A sub-article: what it does not say itself, it has from the article it belongs to."""
    meta = _find(element, "front-stub") if _find(element, "front-stub") is not None else _find(element, "front/article-meta")
    text, title, sections = _text(element, meta)
    own_type = element.get("article-type") or element.get("response-type") or name_of(element)
    return replace(
        main, part=element.get("id") or f"{name_of(element)}{number}", title=title or main.title, article_type=own_type,
        language=element.get(_LANG) or main.language, authors=_authors(meta) or main.authors, sections=sections, text=text,
        licence_statements=tuple(_licence_statements(meta)) or main.licence_statements)


def _find(element: Any, path: str) -> Any:
    """The first element at a path of local names, or None."""
    return None if element is None else element.find("/".join("{*}" + step for step in path.split("/")))


def _first_text(element: Any, path: str) -> str:
    found = None if element is None else element.find(path)
    return "" if found is None else inline(found)


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
            if name in ("license", "license_ref", "copyright-statement"):
                yield "".join(element.itertext())


# ---- text -----------------------------------------------------------------------------------------------------------


def _text(element: Any, meta: Any) -> tuple[str, str, tuple[str, ...]]:
    """Text, title and the headings of the body's sections."""
    title = _first_text(meta, "{*}title-group/{*}article-title")
    writer = TextWriter()
    for abstract in meta.iterfind("{*}abstract") if meta is not None else ():
        if abstract.get("abstract-type", "") not in _OTHER_ABSTRACTS:
            writer.write(abstract)
    body = _find(element, "body")
    for place in (body, _find(element, "back"), _find(element, "floats-group")):
        if place is not None:
            writer.write(place)
    headings = [_first_text(section, "{*}title") for section in body.iterfind("{*}sec")] if body is not None else []
    blocks = [title, *writer.blocks] if title else writer.blocks
    return "\n\n".join(blocks), title, tuple(heading for heading in headings if heading)
