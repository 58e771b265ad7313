"""Readable text of JATS elements: blocks in document order, inline markup that neither fuses nor splits words.

Speed comes from three things: markup that changes no word (italic, bold, links) is dissolved by libxml2 before anything is
looked at, every element's name finds its handler in one dictionary, and a table cell of plain text never gets a writer.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lxml import etree

from biomistral.corpus.articles.citations import END, NAME, NUMBER, RAISED, marked, without_citations
from biomistral.corpus.articles.mathematics import formula

_SKIPPED = (
    "ref-list", "ack", "notes", "bio", "permissions", "graphic", "media", "inline-graphic", "object-id",
    "supplementary-material", "inline-supplementary-material", "related-article", "related-object", "alt-text", "long-desc",
    "sec-meta", "index-term", "contrib-group", "processing-meta", "author-notes", "history", "counts", "kwd-group", "subj-group",
    "label", "element-citation", "mixed-citation", "nlm-citation", "citation", "attrib", "xref-group", "hr", "inline-media",
    "answer-set", "milestone-start", "milestone-end", "abstract", "trans-abstract", "front-stub", "front")
_BLOCKS = (
    "p", "title", "sec", "body", "list", "disp-quote", "boxed-text", "fig-group", "table-wrap-group", "caption",
    "disp-formula-group", "def-list", "statement", "verse-group", "verse-line", "speech", "app", "app-group", "back", "glossary",
    "floats-group", "floats-wrap", "code", "preformat", "subtitle", "chem-struct-wrap", "question-wrap", "question", "answer",
    "explanation")
_INVISIBLE = ("\u00ad", "\u200b", "\u2060", "\ufeff")
_DISSOLVED = tuple("{*}" + name for name in (
    "italic", "bold", "ext-link", "named-content", "styled-content", "underline", "sc", "uri", "email", "monospace", "roman",
    "sans-serif", "overline", "strike"))
_STRANGE = re.compile("[\x80-\x9f\ue000-\uf8ff]")
_LONG, _MOST_MARKS = 20_000, 30
_MARKERS = frozenset(("fn", "table-fn", "aff", "corresp", "author-notes", "contrib"))
_CITED = frozenset(("bibr", "ref"))
_ONLY_NUMBERS = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d]{2}")
_RAISED_SIGN = re.compile(r"[^\W_]|[+\-\u2212\u2013]")
_ORDINALS = frozenset(("st", "nd", "rd", "th", "\u00ba", "\u00aa"))


@dataclass(frozen=True)
class TextRules:
    """What of an article goes into its text."""

    tables: bool = True
    """Rows of tables; their captions stay in any case."""
    footnotes: bool = False
    """Notes, as paragraphs at their place; a table's own notes stay with its rows."""
    citations: Literal["drop", "keep"] = "drop"


def name_of(element: Any) -> str:
    """The element's name without its namespace; ``""`` for an entity that was not resolved."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def plain(text: str) -> str:
    """One paragraph's text: white space single, nothing invisible, NFC."""
    return _tidy(text) if text.isascii() else _tidy(_visible(text))


def _tidy(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text if len(text) < _LONG else _bounded(text))
    return " ".join(text.split())


def _visible(text: str) -> str:
    for character in _INVISIBLE:
        if character in text:
            text = text.replace(character, "")
    return text


def _bounded(text: str) -> str:
    """At most 30 combining marks in a row (Unicode's Stream-Safe Text Format): normalising takes their number squared."""
    kept, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def mended(text: str) -> str:
    """Without private-use characters (letters of a journal's own font), and with what Windows-1252 means by C1 controls."""
    return _STRANGE.sub(_meant, text) if not text.isascii() else text


def _meant(match: re.Match[str]) -> str:
    code = ord(match[0])
    return bytes([code]).decode("cp1252", "ignore") if code < 0xA0 else ""


def dissolve(element: Any) -> None:
    """Replace markup that changes no word by its content, everywhere below ``element``."""
    etree.strip_tags(element, *_DISSOLVED)


class TextWriter:
    """Collects blocks of text from elements, in document order."""

    def __init__(self, rules: TextRules) -> None:
        self.blocks: list[str] = []
        self._rules = rules
        self._inline: list[str] = []

    def write(self, element: Any) -> None:
        """Add everything readable below ``element``."""
        self._content(element)
        self._flush()

    def _flush(self) -> None:
        if not self._inline:
            return
        text = "".join(self._inline)
        self._inline.clear()
        if not marked(text):
            text = plain(text)
        else:
            text = _tidy(without_citations(text if text.isascii() else _visible(text)))
            if not any(map(str.isalnum, text)):  # a paragraph of nothing but citations: a full stop is left
                return
        if text:
            self.blocks.append(text)

    def _content(self, element: Any) -> None:
        if element.text:
            self._inline.append(element.text)
        for child in element:
            handler = _HANDLERS.get(child.tag) or _handler(child.tag)
            handler(self, child)
            if child.tail:
                self._inline.append(child.tail)

    def _block(self, child: Any) -> None:
        self._flush()
        if len(child):
            self._content(child)
            self._flush()
        elif text := plain(child.text or ""):
            self.blocks.append(text)

    def _skip(self, child: Any) -> None:
        if not child.tail or child.tail[0].isalnum():  # neither two words in one nor "word , next"
            self._inline.append(" ")

    def _note(self, child: Any) -> None:
        if self._rules.footnotes:
            self._block(child)
        else:
            self._skip(child)

    def _list_item(self, child: Any) -> None:
        self._flush()
        first = len(self.blocks)
        self._content(child)
        self._flush()
        if len(self.blocks) > first and not self.blocks[first].startswith("- "):
            self.blocks[first] = "- " + self.blocks[first]

    def _definition(self, child: Any) -> None:
        self._flush()
        self._inline.append(": ".join(text for part in child if (text := self.inline(part))))
        self._flush()

    def _captioned(self, child: Any) -> None:
        """A figure or table: "Figure 1. Title. Caption" as one block, then what else it holds (rows, notes)."""
        self._flush()
        parts = {name_of(part): part for part in reversed(child)}
        label, caption = parts.get("label"), parts.get("caption")
        head = [] if label is None else [self.inline(label).rstrip(".:")]
        head += [self.inline(part) for part in caption] if caption is not None else []
        said = [text if text.endswith((".", "?", "!", ":")) else f"{text}." for text in head if text]
        if said:
            self.blocks.append(" ".join(said))
        for part in child:
            if part is not caption and part is not label:
                (_HANDLERS.get(part.tag) or _handler(part.tag))(self, part)
        self._flush()

    def _table(self, child: Any) -> None:
        self._flush()
        rows = "\n".join(self._rows(child)) if self._rules.tables else ""
        if rows:
            self.blocks.append(rows)

    def _rows(self, table: Any) -> Iterator[str]:
        """One line a table row, cells apart by " | " so that neighbouring numbers never become one."""
        for row in _table_rows(table):
            cells = [self.inline(cell) if len(cell) else plain(cell.text or "") for cell in row]
            if any(cells):
                yield " | ".join(cells)

    def _table_notes(self, child: Any) -> None:
        if self._rules.tables:
            self._flush()
            for note in child:
                self._block(note)

    def _display_formula(self, child: Any) -> None:
        self._inline.append(f" {formula(child)} ")

    def _formula(self, child: Any) -> None:
        self._inline.append(formula(child))

    def _alternatives(self, child: Any) -> None:
        """Several forms of one thing: of a table its rows, of a formula its text."""
        table = child.find("{*}table")
        if table is not None:
            self._table(table)
        elif any(name_of(part) in ("math", "tex-math") for part in child):
            self._inline.append(formula(child))
        else:
            self._content(child)

    def _break(self, child: Any) -> None:
        self._inline.append(" ")

    def _entity(self, child: Any) -> None:
        """The character of a named entity that HTML knows too; others were refused when the file was parsed."""
        self._inline.append(html.unescape(child.text or ""))

    def _inside(self, child: Any) -> str:
        """The text of an inline element, taken out again."""
        start = len(self._inline)
        self._content(child)
        content = "".join(self._inline[start:])
        del self._inline[start:]
        return content

    def _sub(self, child: Any) -> None:
        self._script(child, raised=False)

    def _sup(self, child: Any) -> None:
        self._script(child, raised=True)

    def _script(self, child: Any, raised: bool) -> None:
        """10<sup>6</sup> must not read 106: a superscript after a letter or digit gets a caret, ordinals (1st) do not."""
        before = self._inline[-1][-1:] if self._inline else ""
        content = self._inside(child) if len(child) else child.text or ""
        bare = content.strip()
        if before.isalnum():
            content = content.lstrip()  # "N<sub> eff</sub>" is one word
        if marked(content) and not _ONLY_NUMBERS.search(content):
            self._inline.append(f"{RAISED}{END}")  # only citation numbers and what separates them
        elif raised and before.isalnum() and _RAISED_SIGN.match(bare) and not (before.isdigit() and bare in _ORDINALS):
            self._inline.append(f"^{content}")
        else:
            self._inline.append(content)

    def _cross_reference(self, child: Any) -> None:
        """Citations and footnote marks are marked for removal; references to figures, tables and sections stay."""
        kind = child.get("ref-type", "")
        if kind in _CITED and self._rules.citations == "drop":
            said = _words_in(child)
            if said.isdigit() or not _WORD.search(said):
                self._inline.append(f"{RAISED if len(child) and name_of(child[0]) == 'sup' else NUMBER}{said}{END}")
            else:
                self._inline.append(f"{NAME}{said}{END}")
        elif kind in _MARKERS and not _WORD.search(_words_in(child)):
            self._inline.append(f"{RAISED}{END}")
        else:
            self._content(child)

    def inline(self, element: Any) -> str:
        """The text of one element as a single paragraph, whatever blocks it holds."""
        if not len(element):
            return plain(element.text or "")
        writer = TextWriter(self._rules)
        writer.write(element)
        return " ".join(" ".join(writer.blocks).split())


def _table_rows(table: Any) -> Iterator[Any]:
    """The table's own rows: those of a table in a cell are read with the cell."""
    for part in table:
        name = name_of(part)
        if name == "tr":
            yield part
        elif name in ("thead", "tbody", "tfoot"):
            yield from (row for row in part if name_of(row) == "tr")


def _words_in(element: Any) -> str:
    return "".join(element.itertext()) if len(element) else element.text or ""


Handler: TypeAlias = Callable[[TextWriter, Any], None]
_NAMED: dict[str, Handler] = {
    **dict.fromkeys(_SKIPPED, TextWriter._skip), **dict.fromkeys(_BLOCKS, TextWriter._block),
    **dict.fromkeys(("fn", "fn-group"), TextWriter._note), **dict.fromkeys(("fig", "table-wrap"), TextWriter._captioned),
    **dict.fromkeys(("inline-formula", "math", "tex-math"), TextWriter._formula),
    "list-item": TextWriter._list_item, "def-item": TextWriter._definition,
    **dict.fromkeys(("table", "array"), TextWriter._table),
    "table-wrap-foot": TextWriter._table_notes, "disp-formula": TextWriter._display_formula,
    "alternatives": TextWriter._alternatives, "break": TextWriter._break, "sub": TextWriter._sub, "sup": TextWriter._sup,
    "xref": TextWriter._cross_reference}
_HANDLERS: dict[Any, Handler] = {**_NAMED, etree.Entity: TextWriter._entity}
"""By tag as lxml gives it: names with a namespace are added as they are met, up to a bound."""


def _handler(tag: Any) -> Handler:
    """The handler of an element by its name alone; one that is not listed is inline and keeps its content."""
    found = _NAMED.get(tag.rpartition("}")[2] if isinstance(tag, str) else "", TextWriter._content)
    if len(_HANDLERS) < 2000:  # a fuzzed article must not fill the memory with names
        _HANDLERS[tag] = found
    return found


def inline(element: Any, rules: TextRules = TextRules()) -> str:
    """The text of one element as a single paragraph."""
    return TextWriter(rules).inline(element)
