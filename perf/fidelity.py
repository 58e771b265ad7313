"""Is every word of an article in its text, in order, whole, and nothing else? An independent check of the JATS reader.

    python perf/fidelity.py [FOLDER | ARCHIVE.tar.gz | FILE.xml ...] [--out FILE.json] [--show N]

`naive_jats.py` says which words are expected; here they are aligned with the words of the text that the package gives.
Without inputs the articles of the installed `allofplos` package are read. Ends with code 1 if a word is lost, fused, split
or invented, a document is missing, or characters are unclean.
"""

import argparse
import importlib.util
import json
import re
import sys
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree
from naive_jats import Document, Unit, Word, expected, letters, names

from biomistral.corpus.articles.jats import Article, MalformedError, parse

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
WRONG = ("lost", "fused", "split", "invented", "document", "reference", "character")
"""Findings that fail the check; the others are for the eye."""
_DASHES = r"\u2010-\u2015-"
HOLES = re.compile(
    rf"\[[\s,;.{_DASHES}]*\]|(?<!\w)\([\s,;.{_DASHES}]*\)|[(\[]\s*[,;]|[,;]\s*[)\]]|\s[,;](?=\s|$)|,\s*,|(?<=\w)\s\.(?=\s|$)"
    r"|[(\[]\s*(?:see|see also|e\.g\.|cf\.|and|reviewed in|ref\.|refs\.)[\s,.;]*[)\]]", re.IGNORECASE)
NOUNS = names("by in from of to with than see ref ref. refs refs. reference references")
WINDOW, FORMULA_WINDOW = 300, 500
_IGNORED = frozenset(("|", "-"))  # between cells and before list items


@dataclass
class Found:
    """What is wrong, where, and with what."""

    kind: str
    where: str
    unit: str
    detail: str


@dataclass
class Judge:
    """Aligns the words expected of one document with those of its text."""

    document: Document
    text: str
    where: str
    found: list[Found] = field(default_factory=list)
    free: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.words = [word for unit in self.document.units for word in unit.words
                      if word.exact not in _IGNORED or word.formula]
        self.read: list[str] = []
        self.starts: set[int] = set()
        for line in self.text.split("\n"):
            self.starts.add(len(self.read))
            self.read += [token for token in line.split() if token not in _IGNORED]
        self.letters = [letters(token) for token in self.read]
        self.i = self.j = 0
        self.kept_at = -1  # the last expected word that is in the text

    def run(self) -> None:
        while self.i < len(self.words):
            self._step(self.words[self.i])
        rest = self.read[self.j:]
        if any(map(letters, rest)):
            self._report("invented", " ".join(rest[:30]))
        self._holes()
        self._characters()

    def _report(self, kind: str, detail: str, at: int | None = None) -> None:
        index = min(self.i if at is None else at, len(self.words) - 1)
        unit = self.document.units[self.words[index].unit] if self.words else Unit("document", [], "")
        self.found.append(Found(kind, self.where, f"<{unit.kind}> {unit.start}", detail))

    def _step(self, word: Word) -> None:
        if self._region(word):
            return
        taken = self._matches(word, self.j)
        if taken and (word.loose or not word.cited or self._agree(self.i + 1, self.j + taken)):
            self._border(word)
            self.i, self.j, self.kept_at = self.i + 1, self.j + taken, self.i
        elif word.formula:
            self._formula(word)
        elif not word.loose and self._beside_formula():
            self.i += 1
        elif word.free or word.glue or (word.touched and not word.loose):
            self._citation_gone(word)
            self.i += 1
        elif self.j < len(self.read) and not self.letters[self.j] and (word.touched or self.words[max(0,
                                                                                                      self.i - 1)].touched):
            self.j += 1  # left-over punctuation: counted among the holes
        else:
            self._mismatch(word)

    def _region(self, word: Word) -> bool:
        """At the start of an optional element: is all of it there, or nothing?"""
        if not word.free or (self.i and self.words[self.i - 1].free == word.free):
            return False
        end = self.i
        while end < len(self.words) and self.words[end].free == word.free:
            end += 1
        inside = self.words[self.i:end]
        name = word.free
        for each in inside:
            each.free = ""
        if self._agree(self.i, self.j, need=min(30, len(inside))):
            self.free[f"{name} kept"] += len(inside)
            return False
        for each in inside:
            each.free = name
        self.free[f"{name} left out"] += len(inside)
        self.i = end
        return True

    def _matches(self, word: Word, j: int) -> int:
        """How many words of the text the expected word takes up at ``j``; 0: it is not there."""
        if j >= len(self.read) or word.formula:
            return 0
        token = self.read[j]
        if token == word.exact and not word.cited:
            return 1
        if token.replace("^", "") == word.exact.replace("^", ""):
            return 1
        if word.ends and token.rstrip(".:").replace("^", "") == word.exact.rstrip(".:").replace("^", ""):
            return 1
        if word.touched or word.cited:
            return next(filter(None, (self._take(j, form) for form in word.forms or (word.loose,))), 0)
        return 0

    def _take(self, j: int, wanted: str) -> int:
        joined = ""
        for taken, each in enumerate(self.letters[j:j + 40], 1):
            joined += each
            if not wanted.startswith(joined) or (not joined and self.read[j] not in ("(", "[")):
                return 0
            if joined == wanted:
                return taken
        return 0

    def _border(self, word: Word) -> None:
        """A paragraph or heading starts a line of its own; an exponent keeps its distance."""
        if "^" in word.exact and "^" not in self.read[self.j]:
            self._report("exponent", f"{word.exact} reads {self.read[self.j]}")
        before = self.words[self.i - 1]
        first = self.i == 0 or (before.unit != word.unit and not before.formula)
        if first and self.j not in self.starts and self.document.units[word.unit].kind in ("p", "title"):
            self._report("border", " ".join(self.read[max(0, self.j - 4):self.j + 4]))

    def _citation_gone(self, word: Word) -> None:
        """ "as described in [3]." must not become "as described in." """
        before = self.words[self.i - 1] if self.i else None
        if word.cited and before and self.kept_at == self.i - 1 and before.unit == word.unit and (
                before.exact.strip("([").lower() in NOUNS):
            self._report("noun", " ".join(each.exact or "0" for each in self.words[max(0, self.i - 6):self.i + 3]))

    def _beside_formula(self) -> bool:
        """Signs after a formula were skipped with it."""
        before = self.i - 1
        while before >= 0 and not self.words[before].loose and not self.words[before].formula:
            before -= 1
        return before >= 0 and self.words[before].formula

    def _formula(self, word: Word) -> None:
        """Skip in the text to where the words after the formula stand."""
        index = self.i + 1
        while index < len(self.words) and not self.words[index].formula:
            index += 1
        between = [at for at in range(self.i + 1, index) if self.words[at].loose and not self.words[at].glue]
        self.i += 1
        if not between:
            if index >= len(self.words):
                self.j = len(self.read)
            return
        ends = range(self.j, min(len(self.read), self.j + FORMULA_WINDOW))
        firsts = dict.fromkeys((between[0], *[at for at in between if not self.words[at].free][:1]))
        tries = ((first, need) for need in (4, 3, 2, 1) for first in firsts if need <= len(between))
        place = next((j for first, need in tries for j in ends if self._agree(first, j, need)), None)
        if place is not None:
            rest = iter("".join(self.letters[self.j:place]))
            if not all(letter in rest for letter in word.loose):
                self._report("lost", f"{word.exact} beside a formula: {' '.join(self.read[self.j:place])}", self.i - 1)
            self.j = place

    def _agree(self, i: int, j: int, need: int = 3) -> bool:
        """The next words from ``i`` on that must be there are those from ``j`` on."""
        matched = 0
        while matched < need and i < len(self.words):
            word = self.words[i]
            if word.formula:
                return matched > 0
            taken = self._matches(word, j)
            if taken:
                matched, j = matched + 1, j + taken
            elif not (word.free or word.glue or (word.touched and not word.loose)):
                return False
            i += 1
        return matched == need or j >= len(self.read)

    def _mismatch(self, word: Word) -> None:
        if not word.loose:
            self._report("symbol", word.exact)
            self.i += 1
            self.j += bool(self.j < len(self.read) and not self.letters[self.j] and not self._agree(self.i, self.j))
            return
        if self.j < len(self.read):
            if word.loose and self.letters[self.j] == word.loose:
                self._report("altered", f"{word.exact} reads {self.read[self.j]}")
                self.i, self.j, self.kept_at = self.i + 1, self.j + 1, self.i
                return
            taken = self._take(self.j, word.loose) if word.loose else 0
            if taken:
                self._report("split", f"{word.exact} reads {' '.join(self.read[self.j:self.j + taken])}")
                self.i, self.j, self.kept_at = self.i + 1, self.j + taken, self.i
                return
            joined = ""
            for count, each in enumerate(self.words[self.i:self.i + 30], 1):
                joined += each.loose
                if each.loose and count > 1 and self._glued(self.i, self.i + count):
                    self.i, self.j, self.kept_at = self.i + count, self.j + 1, self.i + count - 1
                    return
                if count > 1 and word.loose and each.loose and joined == self.letters[self.j]:
                    apart = " ".join(each.exact for each in self.words[self.i:self.i + count])
                    self._report("fused", f"{apart} reads {self.read[self.j]}")
                    self.i, self.j, self.kept_at = self.i + count, self.j + 1, self.i + count - 1
                    return
        self._resume()

    def _glued(self, start: int, end: int) -> bool:
        """ "shown (3).We" may read "shown.We": the citation stood in a word that begins with it, punctuation is left."""
        apart = [word for word in self.words[start:end] if word.loose]
        marks = re.findall(r"\w+|[^\w\s]+", self.read[self.j])
        return (letters("".join(marks)) == "".join(word.loose for word in apart) and len(marks) > len(apart)
                and all(word.cited for word in apart[1:]))

    def _resume(self) -> None:
        """Go on at the nearest place where expected and read agree again."""
        for total in range(1, WINDOW):
            for a in range(total + 1):
                i, j = self.i + a, self.j + total - a
                if i <= len(self.words) and j <= len(self.read) and (i < len(self.words)) and self._agree(i, j):
                    self._differ(i, j)
                    return
        self._differ(min(len(self.words), self.i + 1), self.j)

    def _differ(self, i: int, j: int) -> None:
        gone = [word for word in self.words[self.i:i] if not (word.free or word.glue or word.formula)]
        lost, extra = [word.exact for word in gone if word.loose], [token for token in self.read[self.j:j] if letters(token)]
        symbols = [word.exact for word in gone if not word.loose and not word.touched]
        if lost or (not symbols and not extra and gone and not all(word.touched for word in gone)):
            self._report("lost", " ".join(lost) + (f" (there stands: {' '.join(extra)})" if extra else ""))
        elif extra:
            self._report("invented", " ".join(extra))
        if symbols:
            self._report("symbol", " ".join(symbols))
        self.i, self.j, self.kept_at = i, j, i - 1

    def _holes(self) -> None:
        """What citations left behind: patterns that the text has more often than the source with numbers in their place."""
        there = Counter(hole.group().strip() for unit in self.document.units for hole in HOLES.finditer(f"F {unit.raw}"))
        for hole in HOLES.finditer(self.text):
            pattern = hole.group().strip()
            if there[pattern] > 0 or set("_^=") & set(self.text[max(0, hole.start() - 12):hole.start()]):
                there[pattern] -= 1
            else:
                context = " ".join(self.text[max(0, hole.start() - 40):hole.end() + 25].split())
                self.found.append(Found("hole", self.where, pattern, context))

    def _characters(self) -> None:
        if unicodedata.normalize("NFC", self.text) != self.text:
            self.found.append(Found("character", self.where, "", "not NFC"))
        bad = {letter for letter in self.text if unicodedata.category(letter) in ("Co", "Cs", "Cn") or (
            unicodedata.category(letter) == "Cc" and letter not in "\n\t")}
        if bad:
            self.found.append(Found("character", self.where, "", " ".join(sorted(f"U+{ord(each):04X}" for each in bad))))
        joined = letters(self.text)
        wanted = "".join(word.loose for word in self.words)
        for reference in self.document.references:
            if reference in joined and reference not in wanted:
                self.found.append(Found("reference", self.where, "", reference[:60]))


def judge(name: str, data: bytes) -> tuple[list[Found], Counter[str]]:
    """Findings in one file, and counts."""
    counts: Counter[str] = Counter(files=1)
    try:
        articles = parse(data)
    except MalformedError as error:
        counts[f"refused: {error.reason}"] += 1
        return [], counts
    try:
        documents = expected(data)
    except etree.XMLSyntaxError as error:
        return [Found("document", name, "", f"read although it is not XML: {error}")], counts
    found: list[Found] = []
    plain = [document for document in documents if not document.translated]
    whole = [article for article in articles if not _is_abstract(article)]
    for document in documents:
        where = f"{name}#{document.part}" if document.part else name
        article = _abstract_of(document, articles) if document.translated else _counterpart(document, plain, whole)
        if article is None and document.translated:
            counts["translated abstracts left out"] += 1
        elif article is None:
            found.append(Found("document", where, document.title[:60], f"no such document ({document.language}) was read"))
        else:
            counts["translated abstracts read"] += document.translated
            if article.language != document.language:
                found.append(Found("document", where, document.title[:60],
                                   f"{article.language}, declared {document.language}"))
            one = Judge(document, article.text, where)
            one.run()
            found += one.found
            counts.update(one.free)
            counts.update(documents=1, units=len(document.units), words=len(one.words), words_read=len(one.read),
                          paragraphs=sum(unit.kind == "p" for unit in document.units),
                          citations=sum(word.cited for word in one.words))
    if len(whole) > len(plain):
        found.append(Found("document", name, "", f"{len(whole)} documents read, {len(plain)} are there"))
    return found, counts


def _is_abstract(article: Article) -> bool:
    return article.part.rpartition(".")[2].startswith("abstract-")


def _abstract_of(document: Document, articles: list[Article]) -> Article | None:
    """The translated abstract that begins as the document does."""
    wanted = [word.loose for unit in document.units if unit.kind != "article-title" for word in unit.words if word.loose][:6]
    return next((each for each in articles if _is_abstract(each) and "".join(wanted) in letters(each.text)), None)


def _counterpart(document: Document, documents: list[Document], articles: list[Article]) -> Article | None:
    if len(articles) == len(documents):
        return articles[documents.index(document)]
    return next((each for each in articles if each.part == document.part), None)


def sources(places: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the XML files in folders, archives and files."""
    for place in places:
        if place.is_dir():
            for path in sorted(path for path in place.rglob("*") if path.suffix in (".xml", ".nxml")):
                yield path.relative_to(place).as_posix(), path.read_bytes()
        elif tarfile.is_tarfile(place):
            with tarfile.open(place) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith((".xml", ".nxml")):
                        stream = archive.extractfile(member)
                        assert stream is not None  # it is a file
                        yield member.name, stream.read()
        else:
            yield place.name, place.read_bytes()


def embedded() -> Path:
    spec = importlib.util.find_spec("allofplos")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("name a folder or an archive of JATS articles, or install allofplos")
    return Path(next(iter(spec.submodule_search_locations))) / "starter_corpus"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", type=int, default=8, help="examples of each kind")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    found: list[Found] = []
    places = options.places or [embedded()]
    for name, data in sources(places):
        each, counted = judge(name, data)
        found += each
        counts.update(counted)
    kinds = Counter(each.kind for each in found)
    examples = defaultdict(list)
    for each in found:
        examples[each.kind].append({"where": each.where, "unit": each.unit, "detail": each.detail})
    holes = Counter(each.where for each in found if each.kind in ("hole", "noun"))
    summary = {"inputs": [place.name for place in places], "counts": dict(sorted(counts.items())),
               "found": dict(sorted(kinds.items())), "wrong": sum(kinds[kind] for kind in WRONG),
               "most_holes": dict(holes.most_common(10)),
               "examples": {kind: rows[:options.show] for kind, rows in sorted(examples.items())}}
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if summary["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
