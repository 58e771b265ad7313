"""ICD-10-CM from the CDC's tabular XML: chapters, blocks, categories, codes, and the 7th-character extensions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from biomistral.codes.hierarchy import Hierarchy, Node, Placed
from biomistral.errors import UserError

NOTE_KINDS = ("includes", "inclusionTerm", "excludes1", "excludes2", "useAdditionalCode", "codeFirst", "codeAlso")
_RANGE = re.compile(r"\s*\(([0-9A-Z]{2,3}(?:-[0-9A-Z]{2,3})?)\)$")
_CODE_LENGTH = 7
_EXCEPTION = re.compile(r"7th characters? (?P<seventh>[A-Z0-9 ,]+(?:and [A-Z0-9])?) do(?:es)? not apply to codes in category "
                        r"\S+ with 6th character (?P<sixth>.+)")


@dataclass(frozen=True, slots=True)
class _Extensions:
    """The 7th characters that apply below a ``sevenChrDef``, and the pairs (6th, 7th) that do not."""

    meanings: Mapping[str, str]
    excepted: frozenset[tuple[str, str]] = frozenset()

    def of(self, code: str) -> Iterator[tuple[str, str]]:
        """Extended code and meaning: ``W05.0`` gives ``W05.0XXA``, a category gets its dot, ``R10`` gives ``R10.XXXA``."""
        category, _, rest = code.partition(".")
        filled = f"{category}.{rest:X<3}"
        for character, meaning in self.meanings.items():
            if (filled[-1], character) not in self.excepted:
                yield filled + character, meaning


_NONE = _Extensions({})


def read_tabular(vocabulary: str, path: Path) -> Hierarchy:
    """Read the tabular list.

    Chapters (``A00-B99``) and blocks (``A00-A09``) are inner nodes, named without the range they cover; a block of one
    category (C50) is that category. A code without subdivisions under a ``sevenChrDef`` (the nearest above it counts)
    is followed by its extended codes, filled with the placeholder X up to the 7th character: W05.0 -> W05.0XXA. The one
    exception of the list, which it states as a note (no D or S after S06's 6th characters 7 and 8), is kept.

    The 2026 edition gives 98,466 nodes: 22 chapters, 258 blocks, 46,881 codes as written and 51,305 extended ones.
    MedConceptsQA's release has 94,580, from an older edition.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True)
    try:
        tree = etree.parse(str(path), parser)
    except etree.XMLSyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: not well-formed XML ({error.msg})") from error
    if tree.docinfo.doctype:  # type: ignore[union-attr]
        raise UserError(f"{path}: has a document type declaration, which is not read; give the file as the CDC publishes it")
    root = tree.getroot()
    if root.tag != "ICD10CM.tabular":
        raise UserError(f"{path}: the outermost element is <{root.tag}>, <ICD10CM.tabular> was expected")
    placed = (entry for chapter in root.iterfind("chapter") for entry in _Tabular(path).chapter(chapter))
    return Hierarchy(vocabulary, placed, path)


class _Tabular:
    def __init__(self, path: Path) -> None:
        self.path = path

    def _where(self, element: Any) -> str:
        return f"{self.path}:{element.sourceline}"

    def _text(self, element: Any, tag: str) -> str:
        text = " ".join((element.findtext(tag) or "").split())
        if not text:
            raise UserError(f"{self._where(element)}: <{element.tag}> has no <{tag}>")
        return text

    def _placed(self, element: Any, code: str, name: str, parent: str | None) -> Placed:
        return Placed(Node(code, name, parent, _notes(element)), self._where(element))

    def chapter(self, chapter: Any) -> Iterator[Placed]:
        desc = self._text(chapter, "desc")
        found = _RANGE.search(desc)
        if found is None:
            raise UserError(f"{self._where(chapter)}: the chapter {desc!r} does not end in its range of codes, '(A00-B99)'")
        code = found[1]
        yield self._placed(chapter, code, desc[: found.start()], None)
        for section in chapter.iterfind("section"):
            yield from self._section(section, code)

    def _section(self, section: Any, chapter: str) -> Iterator[Placed]:
        code, parent = section.get("id", ""), chapter
        if "-" in code and code != chapter:
            yield self._placed(section, code, _RANGE.sub("", self._text(section, "desc")), chapter)
            parent = code
        for diagnosis in section.iterfind("diag"):
            yield from self._diagnosis(diagnosis, parent, _NONE)

    def _diagnosis(self, diagnosis: Any, parent: str, extensions: _Extensions) -> Iterator[Placed]:
        code, name = self._text(diagnosis, "name"), self._text(diagnosis, "desc")
        definition = diagnosis.find("sevenChrDef")
        if definition is not None:
            extensions = _Extensions(self._meanings(definition), _exceptions(diagnosis))
        yield self._placed(diagnosis, code, name, parent)
        children = diagnosis.findall("diag")
        for child in children:
            yield from self._diagnosis(child, code, extensions)
        if not children and len(code.replace(".", "")) < _CODE_LENGTH:
            for extended, meaning in extensions.of(code):
                yield Placed(Node(extended, f"{name}, {meaning}", code), self._where(diagnosis))

    def _meanings(self, definition: Any) -> dict[str, str]:
        meanings: dict[str, str] = {}
        for item in definition.iterfind("extension"):
            character, meaning = item.get("char", ""), " ".join((item.text or "").split())
            if len(character) != 1 or not meaning:
                raise UserError(f"{self._where(item)}: an <extension> needs one 'char' and a meaning")
            meanings[character] = meaning
        return meanings


def _exceptions(diagnosis: Any) -> frozenset[tuple[str, str]]:
    """What a note such as "7th characters D and S do not apply to codes in category S06 with 6th character 7 - death
    due to ..., or 8 - death due to ..." leaves out."""
    pairs: set[tuple[str, str]] = set()
    for note in diagnosis.iterfind("notes/note"):
        if found := _EXCEPTION.match(" ".join("".join(note.itertext()).split())):
            sevenths = re.findall(r"\b[A-Z0-9]\b", found["seventh"])
            sixths = re.findall(r"(?:^|\bor )([A-Z0-9])\b", found["sixth"])
            pairs.update((sixth, seventh) for sixth in sixths for seventh in sevenths)
    return frozenset(pairs)


def _notes(element: Any) -> dict[str, tuple[str, ...]]:
    notes = {}
    for kind in NOTE_KINDS:
        lines = (" ".join("".join(note.itertext()).split()) for note in element.iterfind(f"{kind}/note"))
        if found := tuple(line for line in lines if line):
            notes[kind] = found
    return notes
