"""What the words of a JATS article are, computed the slow and obvious way: the independent side of `fidelity.py`.

It shares no code with the package. An article becomes a flat list of pieces (text, a citation, a formula, a border), these
become words, and each word says how strictly it may be asked for: words beside a citation may lose punctuation, words of
elements that the reader is free to leave out are optional, a formula stands for anything.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lxml import etree


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The reading policy, written down once more from the documentation (JATS tag library names, 1.0-1.3 and NLM 2.x).
DROPPED = names("""ref-list ref fn-group fn ack author-notes permissions supplementary-material object-id kwd-group label
graphic alt-text long-desc hr contrib-group sec-meta index-term inline-media history counts subj-group processing-meta
related-article related-object milestone-start milestone-end xref-group""")
FREE = names("""media notes bio attrib mixed-citation element-citation nlm-citation citation product answer-set x
textual-form""")
FORMULAS = names("inline-formula disp-formula math tex-math inline-graphic chem-struct private-char")
INLINE_DROPPED = names("fn index-term inline-media milestone-start milestone-end object-id")
BORDERS = names("""p title subtitle sec body abstract list list-item disp-quote boxed-text fig fig-group table-wrap
table-wrap-group table-wrap-foot caption table thead tbody tfoot tr td th col colgroup disp-formula disp-formula-group
def-list def-item def term term-head def-head statement verse-group verse-line speech speaker app app-group
back glossary gloss-group
floats-group floats-wrap code preformat array tbody break hr attrib label media graphic chem-struct-wrap chem-struct-wrapper
supplementary-material notes bio ack fn-group ref-list kwd-group permissions alternatives question question-wrap answer
explanation address mixed-citation element-citation product""")
CITING = names("bibr ref fn table-fn aff corresp author-notes contrib")
FREE_ABSTRACTS = names("graphical toc teaser precis key-points web-summary video translation author-highlights")
ENCLOSING = ("caption", "td", "th", "term", "def", "speaker")
LABELLED = frozenset(("fig", "table-wrap"))
INTRODUCING = names("""see also eg ie cf reviewed in by for review reviews example and or as y e et und ref refs reference
references therein from details examples discussed summarized reported described to""")
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff\x00-\x08\x0e-\x1b\ue000-\uf8ff\U000f0000-\U0010fffd]")


@dataclass
class Word:
    """A word that is expected. ``exact`` has no citation in it; ``loose`` is its letters and digits only."""

    exact: str
    touched: bool = False
    """A citation stands in or beside it: punctuation may differ."""
    free: str = ""
    """The name of the optional element it is in."""
    glue: bool = False
    """It may go with the citation beside it: its brackets, "see", numbers of a range."""
    formula: bool = False
    ends: bool = False
    """The last of a label, caption or term: a full stop or colon may be added or gone."""
    unit: int = 0
    cited: bool = False
    """A citation is in it, or it is one: ``forms`` are its letters with all, the first few or no citations kept."""
    forms: tuple[str, ...] = ()
    loose: str = field(init=False)

    def __post_init__(self) -> None:
        self.loose = letters(self.exact)


@dataclass
class Unit:
    """A paragraph, heading, cell or the like; ``kind`` is its element."""

    kind: str
    words: list[Word]
    raw: str
    """Its text with ``0`` for a citation and ``F`` for a formula."""

    @property
    def start(self) -> str:
        return " ".join(word.exact for word in self.words[:8])


@dataclass
class Document:
    """One article, sub-article or translated abstract as it should be read."""

    language: str
    part: str
    """Its id, under the ids of the sub-articles it is in; "" for the article."""
    title: str
    units: list[Unit]
    references: list[str]
    translated: bool = False
    """It is an abstract in another language than its article."""


def clean(text: str) -> str:
    """NFC without invisible and private-use characters."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def name_of(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(element: Any, *names: str) -> list[Any]:
    return [child for child in element if name_of(child) in names]


def expected(data: bytes) -> list[Document]:
    """The documents of a file in reading order: each article, then its sub-articles and responses, nested ones after
    their own. Raises lxml's XMLSyntaxError."""
    root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True))
    articles = [root] if name_of(root) == "article" else [each for each in root.iter() if name_of(each) == "article"]
    return [document for article in articles for document in _documents(article, "en", "")]


def _documents(element: Any, language: str, part: str) -> Iterator[Document]:
    language = element.get(_LANG) or language
    stub = next((found for front in children(element, "front") for found in children(front, "article-meta")), None)
    stub = next(iter(children(element, "front-stub")), stub)
    meta = [] if stub is None else list(stub)
    walk = _Walk()
    title, translated = _title(meta, walk), []
    for abstract in (each for each in meta if name_of(each) in ("abstract", "trans-abstract")):
        own = abstract.get(_LANG) or (language if name_of(abstract) == "abstract" else "")
        kind = abstract.get("abstract-type", "")
        free = f"abstract {kind}" if kind in FREE_ABSTRACTS else ""
        if primary(own) == primary(language) and name_of(abstract) == "abstract":
            walk.element(abstract, "abstract", free)
        else:
            other = _Walk()
            for group in (each for each in element.iter() if name_of(each) == "trans-title-group"):
                for heading in children(group, "trans-title") if group.get(_LANG) == own else ():
                    other.element(heading, "article-title", "translated title")
            other.element(abstract, "abstract", free)
            translated.append(Document(own, part, "", other.units, [], translated=True))
    for place in ("body", "back", "floats-group", "floats-wrap"):
        for found in children(element, place):
            walk.element(found, place)
    references = [text for each in element.iter() if name_of(each) == "ref" if len(text := letters(
        "".join(each.itertext()))) > 60]
    yield Document(language, part, title, walk.units, references)
    yield from translated
    for name in ("sub-article", "response"):
        for number, child in enumerate(children(element, name), 1):
            own = child.get("id") or f"{name}{number}"
            yield from _documents(child, language, f"{part}.{own}" if part else own)


def _title(meta: list[Any], walk: "_Walk") -> str:
    title = ""
    for group in (each for each in meta if name_of(each) == "title-group"):
        for heading in children(group, "article-title")[:1]:
            walk.element(heading, "article-title")
            title = " ".join("".join(heading.itertext()).split())
        for heading in children(group, "subtitle"):
            walk.element(heading, "subtitle", "article subtitle")
    return title


def primary(language: str) -> str:
    return language.partition("-")[0].lower()


class _Walk:
    """Gathers pieces until a border, then makes them a unit."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self._pieces: list[tuple[str, str, str]] = []  # kind (text, citation, formula), text, free
        self._kinds = ["document"]

    def element(self, element: Any, kind: str, free: str = "") -> None:
        self._border()
        self._inside(element, kind, free)
        self._border()

    def _border(self) -> None:
        raw = " ".join("".join("0" if kind == "citation" else text for kind, text, _ in self._pieces).split())
        kind = next((each for each in ENCLOSING if each in self._kinds), self._kinds[-1])
        unit = Unit(kind, list(words(self._pieces)), raw)
        self._pieces = []
        if unit.words:
            for word in unit.words:
                word.unit = len(self.units)
            unit.words[-1].ends = kind in ("label", *ENCLOSING)
            self.units.append(unit)

    def _inside(self, element: Any, kind: str, free: str) -> None:
        self._kinds.append(kind)
        self._text(element.text, free)
        for child in element:
            self._child(child, name_of(child), free)
            self._text(child.tail, free)
        if kind in BORDERS:
            self._border()
        self._kinds.pop()

    def _text(self, text: str | None, free: str) -> None:
        if text:
            self._pieces.append(("text", text, free))

    def _child(self, child: Any, name: str, free: str) -> None:
        if child.tag is etree.Entity:
            self._text(html.unescape(child.text), free)
            return
        if not name:  # a comment or an instruction
            return
        label = name == "label" and name_of(child.getparent()) in LABELLED
        if name in BORDERS:
            self._border()
        if name in FORMULAS or (name == "alternatives" and not any(name_of(each) == "table" for each in child)):
            self._pieces.append(("formula", "" if name == "inline-graphic" else "F", free))
            if name in BORDERS:
                self._border()
        elif name == "xref" and child.get("ref-type") in CITING:
            self._pieces.append(("citation", "".join(child.itertext(etree.Element, etree.Entity)), free))
        elif name in ("sup", "sub"):
            self._script(child, name, free)
        elif name in FREE or self._may_stay(child, name):
            self._inside(child, name, free or name)
        elif name in DROPPED and not label:
            self._text("" if name in INLINE_DROPPED or name not in BORDERS else " ", free)
        else:
            self._inside(child, name, free)

    def _may_stay(self, child: Any, name: str) -> bool:
        """A table's own notes, and what heads a group of figures."""
        if name == "label":
            return name_of(child.getparent()) in ("fig-group", "table-wrap-group")
        return name in ("fn", "fn-group") and "table-wrap-foot" in self._kinds

    def _script(self, child: Any, name: str, free: str) -> None:
        """10<sup>6</sup> is expected as 10^6, others as they stand; white space at their start is only indentation."""
        before = next((text for kind, text, _ in reversed(self._pieces) if kind == "text"), "")
        first = len(self._pieces)
        self._inside(child, name, free)
        if first < len(self._pieces) and self._pieces[first][0] == "text" and before[-1:].strip():
            self._pieces[first] = ("text", self._pieces[first][1].lstrip(), free)
        inside = "".join(text for kind, text, _ in self._pieces[first:] if kind == "text")
        if name == "sup" and before[-1:].isdigit() and inside[:1].isdigit():
            self._pieces.insert(first, ("text", "^", free))


def words(pieces: Iterable[tuple[str, str, str]]) -> Iterator[Word]:
    """Words of a unit: white space separates them, what joins without any is one word."""
    groups: list[list[tuple[str, str, str]]] = [[]]
    for kind, text, free in pieces:
        if kind != "text":
            groups[-1].append((kind, text, free))
            continue
        for number, part in enumerate(re.split(r"\s+", _INVISIBLE.sub("", text))):
            if number:
                groups.append([])
            if part:
                groups[-1].append((kind, part, free))
    found = [_word(group) for group in groups if group]
    _mark_touched(found)
    yield from (word for word in found if word.exact or word.cited or word.formula)


def _word(group: list[tuple[str, str, str]]) -> Word:
    text = clean("".join(part for kind, part, _ in group if kind == "text"))
    kinds = {kind for kind, _, _ in group}
    said = [(kind, letters(clean(part))) for kind, part, _ in group if kind != "formula"]
    cited = sum(kind == "citation" for kind, _ in said)
    forms = ["".join(_first_cited(said, kept)) for kept in range(cited, -1, -1)]
    return Word(text, free=group[0][2], formula="formula" in kinds, cited=cited > 0,
                forms=tuple(form for form in forms if form))


def _first_cited(said: list[tuple[str, str]], kept: int) -> Iterator[str]:
    """The text, with the first ``kept`` citations in it."""
    for kind, text in said:
        kept -= kind == "citation"
        if kind == "text" or kept >= 0:
            yield text


def _mark_touched(found: list[Word]) -> None:
    """A word with a citation, its neighbours, and every word of the bracket around a citation are touched; in such a
    bracket the words that introduce citations (and numbers, for ranges) are optional."""
    opened: list[int] = []
    for index, word in enumerate(found):
        if word.cited:
            for near in found[max(0, index - 1):index + 2]:
                near.touched = True
            if not word.loose:
                word.glue = True
        opened += [index] * sum(word.exact.count(each) for each in "([")
        for _ in range(sum(word.exact.count(each) for each in ")]")):
            if opened:
                _mark_bracket(found, opened.pop(), index + 1)


def _mark_bracket(found: list[Word], start: int, end: int) -> None:
    inside = found[start:end]
    if not any(word.cited for word in inside):
        return
    for word in found[max(0, start - 1):end + 1]:
        word.touched = True
    for word in inside:
        if word.loose.isdigit() or word.loose.lower() in INTRODUCING:
            word.glue = True
