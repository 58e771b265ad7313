"""Readable text of JATS elements: blocks in document order, inline markup that neither fuses nor splits words."""

import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from biomistral.corpus.mathematics import formula

SKIPPED = frozenset((
    "ref-list", "fn-group", "fn", "ack", "notes", "bio", "permissions", "graphic", "media", "inline-graphic", "object-id",
    "supplementary-material", "related-article", "related-object", "alt-text", "long-desc", "sec-meta", "index-term",
    "contrib-group", "processing-meta", "author-notes", "history", "counts", "kwd-group", "subj-group", "label",
    "element-citation", "attrib", "xref-group", "hr", "inline-media", "answer-set", "milestone-start", "milestone-end"))
BLOCKS = frozenset((
    "p", "title", "sec", "body", "abstract", "list", "list-item", "disp-quote", "boxed-text", "fig", "fig-group", "table-wrap",
    "table-wrap-group", "table-wrap-foot", "caption", "table", "disp-formula", "disp-formula-group", "def-list", "def-item",
    "statement", "verse-group", "verse-line", "speech", "app", "app-group", "back", "glossary", "floats-group", "code",
    "preformat", "array", "subtitle", "chem-struct-wrap", "question-wrap", "question", "answer", "explanation"))
FORMULAS = frozenset(("inline-formula", "disp-formula", "math", "tex-math"))
_MARKERS = frozenset(("fn", "table-fn", "aff", "corresp", "author-notes", "contrib", "ref", "bibr"))

# Private-use characters that stand for citations until the paragraph is whole (see `_without_citations`).
_GONE, _OPEN, _CLOSE = "\ue000", "\ue001", "\ue002"
_CITED = f"(?:{_GONE}|{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})"
_GLUE = (r"(?:[\s,;:.\d\u2010-\u2015\-]|\b(?:and|see|also|e\.?g|i\.?e|cf|reviewed in|reviewed by|for review|for example"
         r"|y|e|et|und)\b|&)")
_BRACKETED = re.compile(rf"\s*[\[(]{_GLUE}*{_CITED}(?:{_GLUE}|{_CITED})*[\])]", re.IGNORECASE)
_RUN = re.compile(rf"{_GONE}(?:[\s,;\u2010-\u2015\-]*{_GONE})+")
_BARE = re.compile(rf"(?<=[(\[])\s*{_GONE}[\s,;]*|[\s,;]*{_GONE}(?=\s*[)\]])|[,;]?\s*{_GONE}\s*(?=[,;.])|\s*{_GONE}\s*(?=[:!?])"
                   rf"|\s*{_GONE}(?=\s|$)")
_MARKS = re.compile(f"[{_GONE}{_OPEN}{_CLOSE}]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff\x00-\x08\x0b\x0c\x0e-\x1f]")
_RAISED = re.compile(r"[^\W_]|[+\-\u2212\u2013]")
_ORDINALS = frozenset(("st", "nd", "rd", "th", "\u00ba", "\u00aa"))


def name_of(element: Any) -> str:
    """The element's name without its namespace; ``""`` for an entity that was not resolved."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def plain(text: str) -> str:
    """One paragraph's text: citation marks resolved, white space single, NFC."""
    if _GONE in text or _OPEN in text:
        text = _without_citations(text)
    return unicodedata.normalize("NFC", " ".join(_INVISIBLE.sub("", text).split()))


def _without_citations(text: str) -> str:
    """Drop "[1, 2-4]", "(see Smith, 2010; Lee, 2011)" and bare markers with their brackets; keep names a sentence needs."""
    text = _BRACKETED.sub(_GONE, " ".join(text.split()))
    text = _BRACKETED.sub(_GONE, text)  # brackets in brackets: "(e.g. [3])"
    text = _RUN.sub(_GONE, text)
    text = _BARE.sub("", text)
    return _MARKS.sub("", text)


class TextWriter:
    """Collects blocks of text from elements, in document order."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self._inline: list[str] = []

    def write(self, element: Any) -> None:
        """Add everything readable below ``element``."""
        self._content(element)
        self._flush()

    def _flush(self, prefix: str = "") -> None:
        text = plain("".join(self._inline))
        self._inline = []
        if any(map(str.isalnum, text)):  # what is left of a paragraph of citations is a full stop
            self.blocks.append(prefix + text)

    def _content(self, element: Any) -> None:
        self._inline.append(element.text or "")
        for child in element:
            self._child(child)
            self._inline.append(child.tail or "")

    def _child(self, child: Any) -> None:
        name = name_of(child)
        if name in SKIPPED or (name == "mixed-citation" and child.getparent() is not None):
            self._inline.append(" ")
        elif name == "disp-formula":
            self._inline.append(f" {formula(child)} ")
        elif name in BLOCKS:
            self._flush()
            self._block(child, name)
        else:
            self._inline_element(child, name)

    def _block(self, child: Any, name: str) -> None:
        if name in ("fig", "table-wrap"):
            self._captioned(child)
        elif name == "table":
            rows = "\n".join(_rows(child))
            self.blocks += [rows] if rows else []
        elif name == "list-item":
            self._list_item(child)
        elif name == "def-item":
            self._inline.append(": ".join(text for part in child if (text := inline(part))))
            self._flush()
        else:
            self._content(child)
            self._flush()

    def _list_item(self, child: Any) -> None:
        first = len(self.blocks)
        self._content(child)
        self._flush()
        if len(self.blocks) > first and not self.blocks[first].startswith("- "):
            self.blocks[first] = "- " + self.blocks[first]

    def _captioned(self, child: Any) -> None:
        """A figure or table: "Figure 1. Title. Caption" as one block, then what else it holds (rows, footnotes)."""
        label, caption = None, None
        for part in child:
            name = name_of(part)
            label = part if name == "label" else label
            caption = part if name == "caption" else caption
        head = [] if label is None else [inline(label).rstrip(".:")]
        head += [inline(part) for part in caption] if caption is not None else []
        said = [text if text.endswith((".", "?", "!", ":")) else f"{text}." for text in head if text]
        if said:
            self.blocks.append(" ".join(said))
        for part in child:
            if part is not caption and part is not label:
                self._child(part)
        self._flush()

    def _inline_element(self, child: Any, name: str) -> None:
        if name in ("sup", "sub"):
            self._script(child, name)
        elif name == "xref":
            self._cross_reference(child)
        elif name == "break":
            self._inline.append(" ")
        elif name in FORMULAS or (name == "alternatives" and child.find("{*}table") is None):
            self._inline.append(formula(child))
        elif name == "":
            self._inline.append(_entity(child))
        else:
            self._content(child)

    def _script(self, child: Any, name: str) -> None:
        """10<sup>6</sup> must not read 106: a superscript after a letter or digit gets a caret, ordinals (1st) do not."""
        before = next((text[-1] for text in reversed(self._inline) if text), "")
        start = len(self._inline)
        self._content(child)
        content = "".join(self._inline[start:])
        del self._inline[start:]
        bare = content.strip()
        if _GONE in content and not re.search(r"[^\W\d]", _MARKS.sub("", bare)):
            self._inline.append(_GONE)  # only citation numbers and what separates them
        elif name == "sub" or (before.isdigit() and bare in _ORDINALS):
            self._inline.append(content)
        elif before.isalnum() and _RAISED.match(bare):
            self._inline.append(f"^{bare}")
        else:
            self._inline.append(content)

    def _cross_reference(self, child: Any) -> None:
        """Citations and footnote marks are marked for removal; references to figures, tables and sections stay."""
        kind = child.get("ref-type", "")
        if kind not in _MARKERS:
            self._content(child)
            return
        start = len(self._inline)
        self._content(child)
        said = _MARKS.sub("", "".join(self._inline[start:]))
        del self._inline[start:]
        named = kind in ("bibr", "ref") and re.search(r"[^\W\d]{2}", said)
        self._inline.append(f"{_OPEN}{said}{_CLOSE}" if named else _GONE)


def inline(element: Any) -> str:
    """The text of one element as a single paragraph, whatever blocks it holds."""
    writer = TextWriter()
    writer.write(element)
    return " ".join(" ".join(writer.blocks).split())


def _rows(table: Any) -> Iterator[str]:
    """One line a table row, cells apart by " | " so that neighbouring numbers never become one."""
    for row in table.iter("{*}tr"):
        cells = [inline(cell) for cell in row if name_of(cell) in ("td", "th")]
        if any(cells):
            yield " | ".join(cells)


def _entity(element: Any) -> str:
    """The character of a named entity that HTML knows too; others were refused when the file was parsed."""
    return html.unescape(element.text or "")
