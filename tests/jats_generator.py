"""Articles in JATS made by chance together with the words a reader must find in them.

Whoever writes a piece of markup here also writes what it says, so that no code that extracts text is needed to know it.
`articles()` is the hypothesis strategy; `make(random)` makes one from any `random.Random`, e.g. seeds of a fuzz run.
"""

import html
import re
import unicodedata
from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st

PLAIN = ("cell", "protein", "dose", "Tumour", "rate", "mice", "0.05", "12", "mg/kg", "well-known", "p", "B6", "plasma",
         "x = 3",
         "90%", "(control)", "“quoted”", "IL-6", "5–10", "A/B", "don't", "t(14;18)", "[sic]", "1,000", "β-blocker", "kg·m")
STRANGE = ("cafe\u0301", "na\u00efve", "\u0627\u0644\u0633\u0644\u0627\u0645", "\u05e9\u05dc\u05d5\u05dd",
           "\u65e5\u672c\u8a9e", "\U0001d6fc\U0001d6fd", "\U0001f9ec", "\u1100\u1161\u11a8", "o\u0323\u0308", "\u03b1\u03b2",
           "\u0130stanbul", "\ufb01bre", "\u212b", "a<b", "x&y", "\"q\"", "\u0915\u094d\u0937", "\u00b5m", "\u2192", "a]]b")
SPACES = (" ",) * 12 + ("  ", "\n    ", "\t", "\u00a0", "\u2009", "&#160;", "&#x2003;", "<break/>", " <!-- note --> ",
                        " <?page 3?>")
INVISIBLE = ("\u00ad", "\u200b", "&#173;", "\ufeff")
INLINE = ("italic", "bold", "underline", "sc", "monospace", "styled-content", "named-content", "ext-link", "email", "roman",
          "abbrev", "strike")
CHEMICAL = (("IC", "sub", "50"), ("H", "sub", "2"), ("Ca", "sup", "2+"), ("10", "sup", "6"), ("10", "sup", "\u22126"),
            ("m", "sup", "2"), ("1", "sup", "st"), ("x", "sub", "i"), ("CO", "sub", "2"), ("R", "sup", "a"))
CITED = "<xref ref-type='bibr' rid='b{0}'>{0}</xref>"
NUMERIC = (" [{1}]", " [{1},{2}]", " [{1}, {2}&#8211;{4}]", " [{1}-{4}]", " ({1}; {2})", "<sup>{1}</sup>",
           "<sup>{1},{2}</sup>",
           "<sup>{1}&#8211;{4}</sup>", "<sup>[{3}]</sup>", "<sup><italic>{1}</italic></sup>", " [{1}][{2}]", " (see {1})",
           " (reviewed in [{1}])", "<xref ref-type='bibr'><sup>7</sup></xref>", "<xref ref-type='fn'><sup>a</sup></xref>",
           "<sup><xref ref-type='table-fn'>*</xref></sup>", " [<bold>{1}</bold>]", "<sup>{1}, {2}, {4}</sup>")
NAMED = (" (<xref ref-type='bibr'>Lee, 2010</xref>)",
         " (<xref ref-type='bibr'>Lee et al., 2010</xref>; <xref ref-type='bibr'>Kim "
         "and Wu, 2011a</xref>)", " (see <xref ref-type='bibr'>Lee, 2010</xref>)",
         " (e.g., <xref ref-type='bibr'>Lee, 2010</xref>,"
         " <xref ref-type='bibr'>2012</xref>)", " [<xref ref-type='bibr'>Ruiz &amp; Paz, 1999</xref>]")
STAYING = ((" (<xref ref-type='fig'>Fig. 2</xref>)", " (Fig. 2)"),
           (" (<xref ref-type='fig'>Fig. 2A</xref>, " + CITED.format(3) + ")",
            " (Fig. 2A)"), (" <xref ref-type='bibr'>Lee et al.</xref> [" + CITED.format(3) + "]", " Lee et al."),
           (" Smith <italic>et al.</italic> [" + CITED.format(9) + "]", " Smith et al."),
           (" in <xref ref-type='table'>Table 1</xref>", " in Table 1"), (" <xref ref-type='sec'>above</xref>", " above"))
ENTITIES = (("&alpha;", "α"), ("&nbsp;", " "), ("&eacute;", "é"), ("&mu;", "μ"), ("&hellip;", "…"))
DROPPED = ("<ack><title>Thanks</title><p>ZZZ</p></ack>",
           "<ref-list><title>References</title><ref><label>1</label><mixed-citation>"
           "ZZZ <italic>J ZZZ</italic></mixed-citation></ref></ref-list>",
           "<fn-group><fn><label>a</label><p>ZZZ</p></fn></fn-group>",
           "<ref-list><ref><citation citation-type='journal'>ZZZ</citation></ref></ref-list>")
BESIDE = ("<supplementary-material><label>S1</label><caption><p>ZZZ</p></caption></supplementary-material>",
          "<fn-group><fn><p>ZZZ</p></fn></fn-group>", "<!-- ZZZ -->", "<?ZZZ zzz?>")
VERSIONS = ("2.3", "3.0", "1.0", "1.1", "1.2", "1.3")


@dataclass(frozen=True)
class Expected:
    """What one document must say: blocks in order, and those of them that must be there to the letter."""

    part: str
    language: str
    blocks: list[str]
    verbatim: list[str]


@dataclass(frozen=True)
class Generated:
    xml: bytes
    documents: list[Expected]


def words(text: str) -> list[str]:
    """Words as they are compared: without carets, dollars of TeX, cell borders, bullets and the stop a caption may gain."""
    found = (word.replace("^", "").strip("$").rstrip(".:") for word in text.split())
    return [word for word in found if word not in ("", "|", "-")]


def normal(text: str) -> str:
    """White space single, nothing invisible, NFC: what a paragraph looks like when it is read."""
    return unicodedata.normalize("NFC", " ".join(re.sub("[\u00ad\u200b\u2060\ufeff]", "", text).split()))


@dataclass
class Maker:
    """Makes markup; every method returns XML and says what it reads as, or adds that to ``blocks``."""

    random: Random
    entities: bool = False
    blocks: list[str] = field(default_factory=list)
    verbatim: list[str] = field(default_factory=list)
    numbered: int = 0

    # ---- words

    def escaped(self, text: str) -> str:
        """The same characters in one of XML's ways to write them."""
        way = self.random.randrange(12)
        if way == 0 and "]]>" not in text:
            return f"<![CDATA[{text}]]>"
        if way == 1:
            return "".join(f"&#{ord(letter)};" for letter in text)
        if way == 2 and len(text) > 1:
            return html.escape(text[0], quote=False) + "<!-- a <b> comment -->" + html.escape(text[1:], quote=False)
        if way == 3:
            return "".join(f"&#x{ord(letter):X};" if ord(letter) > 126 else html.escape(letter,
                                                                                        quote=False) for letter in text)
        return html.escape(text, quote=False).replace("]]>", "]]&gt;")

    def word(self) -> tuple[str, str]:
        kind = self.random.randrange(14)
        text = self.random.choice(STRANGE if kind < 3 else PLAIN)
        if kind == 3:
            before, tag, after = self.random.choice(CHEMICAL)
            return f"{self.escaped(before)}<{tag}>{self.wrapped(self.escaped(after))}</{tag}>", before + after
        if kind == 4 and self.entities:
            return self.random.choice(ENTITIES)
        if kind == 5 and len(text) > 1:  # markup that ends in the middle of a word
            cut = self.random.randrange(1, len(text))
            return self.wrapped(self.escaped(text[:cut])) + self.wrapped(self.escaped(text[cut:])), text
        if kind == 6 and len(text) > 1:
            cut = self.random.randrange(1, len(text))
            return self.escaped(text[:cut]) + self.random.choice(INVISIBLE) + self.escaped(text[cut:]), text
        return self.escaped(text), text

    def wrapped(self, xml: str) -> str:
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            tag = self.random.choice(INLINE)
            xml = f"<{tag}>{xml}</{tag}>"
        return xml

    def sentence(self, citing: bool = True) -> tuple[str, str]:
        """Words, some in markup, some with a citation after them; it ends with a full stop."""
        xml, text = "", ""
        for number in range(self.random.randrange(1, 7)):
            one, said = self.word()
            space = self.random.choice(SPACES) if number else ""
            if self.random.randrange(5) == 0:
                more, said_more = self.word()
                one, said = self.wrapped(f"{one} {more}"), f"{said} {said_more}"
            xml, text = xml + space + one, text + (" " if number else "") + said
            if citing and self.random.randrange(5) == 0:
                marker, said = self.citation()
                xml, text = xml + marker, text + said
        return f"{xml} end.", f"{text} end."

    def citation(self) -> tuple[str, str]:
        kind = self.random.randrange(4)
        if kind == 0:
            return self.random.choice(STAYING)
        if kind == 1:
            return self.random.choice(NAMED), ""
        markers = [CITED.format(number) for number in range(6)]
        return self.random.choice(NUMERIC).format(*markers), ""

    def formula(self) -> tuple[str, str]:
        name = f"Q{self.random.randrange(90)}"
        math = f"<mml:math><mml:mi>{name}</mml:mi></mml:math>"
        return self.random.choice((
            (f"<inline-formula>{math}</inline-formula>", name),
            (f"<inline-formula><alternatives><graphic xlink:href='f.gif'/>{math}"
             "</alternatives></inline-formula>", name), (f"<disp-formula id='e1'><label>(1)</label>{math}</disp-formula>",
                                                         f" {name} "),
            (f"<inline-formula><tex-math>\\begin{{document}}$${name}$$\\end{{document}}</tex-math></inline-formula>", name)))

    # ---- blocks

    def says(self, text: str) -> None:
        if text.strip():
            self.blocks.append(text)

    def paragraph(self, depth: int = 0, tag: str = "p") -> str:
        """A paragraph; if it holds lists or tables, what stands before and after them are blocks of their own."""
        xml, text = self.sentence()
        if depth < 2 and self.random.randrange(5) == 0:
            self.says(text)
            xml += self.block(depth + 1)
            more, text = self.sentence()
            xml += more
        elif self.random.randrange(6) == 0:
            more, said = self.formula()
            xml, text = f"{xml} {more} .", f"{text} {said} ."
        else:
            self.verbatim.append(normal(text))
        self.says(text)
        return f"<{tag}>{xml}</{tag}>"

    def block(self, depth: int) -> str:
        makers = (self.list, self.table, self.figure, self.box, self.definitions, self.quote, self.code, self.array,
                  self.verse)
        return self.random.choice(makers)(depth)

    def simple(self, tag: str = "p") -> str:
        """Markup of one line of text; it is a block."""
        xml, text = self.sentence(citing=False)
        self.says(text)
        return f"<{tag}>{xml}</{tag}>"

    def list(self, depth: int) -> str:
        kind = self.random.choice(("bullet", "order", "simple", "roman-lower"))
        items = "".join("<list-item>" + self.random.choice(("", "<label>9.</label>")) + self.paragraph(depth + 1) +
                        (self.list(depth + 1) if depth < 3 and self.random.randrange(4) == 0 else "") + "</list-item>"
                        for _ in range(self.random.randrange(1, 4)))
        return f"<list list-type='{kind}'>{items}</list>"

    def cell(self) -> str:
        tag = self.random.choice(("td", "td", "td", "th"))
        span = self.random.choice(("", "", " colspan='2'", " rowspan='3'"))
        if self.random.randrange(5) == 0:
            return f"<{tag}{span}/>"
        inside = self.random.choice((self.sentence, self.word))() if self.random.randrange(4) else (self.simple(), "")
        self.says(inside[1])
        return f"<{tag}{span}>{inside[0]}</{tag}>"

    def rows(self) -> str:
        return "".join("<tr>" + "".join(self.cell() for _ in range(self.random.randrange(1, 4))) + "</tr>"
                       for _ in range(self.random.randrange(1, 4)))

    def table(self, depth: int) -> str:
        head = self.label("Table") + f"<caption>{self.simple()}</caption>"
        table = f"<table><col/><thead>{self.rows()}</thead><tbody>{self.rows()}</tbody></table>"
        if self.random.randrange(3) == 0:
            table = f"<alternatives><graphic xlink:href='t.gif'/>{table}</alternatives>"
        foot = f"<table-wrap-foot>{self.simple()}</table-wrap-foot>" if self.random.randrange(2) else ""
        return f"<table-wrap id='t1'>{head}{table}{foot}</table-wrap>"

    def label(self, name: str) -> str:
        self.numbered += 1
        self.says(f"{name} {self.numbered}")
        return f"<label>{name} {self.numbered}{self.random.choice(('', '.', ':'))}</label>"

    def figure(self, depth: int) -> str:
        label = self.label("Figure")
        title = self.simple("title") if self.random.randrange(2) else ""
        caption = f"<caption>{title}{self.simple()}</caption>"
        other = ("<object-id>ZZZ</object-id><alt-text>ZZZ</alt-text>"
                 "<graphic xlink:href='g.tif'><alt-text>ZZZ</alt-text></graphic>")
        rights = "<permissions><copyright-statement>ZZZ</copyright-statement></permissions>"
        fig = f"<fig id='f1'>{label}{caption}{other}{self.random.choice(('', rights))}</fig>"
        return f"<fig-group>{fig}</fig-group>" if self.random.randrange(4) == 0 else fig

    def box(self, depth: int) -> str:
        return (f"<boxed-text><label>Box ZZZ</label><caption>{self.simple('title')}</caption>{self.paragraph(depth + 1)}"
                "</boxed-text>")

    def definitions(self, depth: int) -> str:
        title = self.simple("title") if self.random.randrange(2) else ""
        items = ""
        for _ in range(self.random.randrange(1, 4)):
            xml, text = self.word()
            self.says(text)
            items += f"<def-item><term>{xml}</term><def>{self.simple()}</def></def-item>"
        return f"<def-list>{title}{items}</def-list>"

    def quote(self, depth: int) -> str:
        return f"<disp-quote>{self.paragraph(depth + 1)}</disp-quote>"

    def code(self, depth: int) -> str:
        self.says("for i in range: print i")
        return "<preformat>for i in range:\n    print i</preformat>"

    def array(self, depth: int) -> str:
        return f"<array><tbody>{self.rows()}</tbody></array>"

    def verse(self, depth: int) -> str:
        lines = "".join(self.simple("verse-line") for _ in range(2))
        return f"<verse-group>{lines}</verse-group>"

    def section(self, depth: int = 0) -> str:
        label = self.random.choice(("", "", f"<label>{depth + 1}.ZZZ</label>"))
        title = self.simple("title") if self.random.randrange(8) else ""
        content = "".join(self.random.choice((self.paragraph, self.paragraph, self.paragraph, self.block))(depth + 1)
                          for _ in range(self.random.randrange(1, 4)))
        content += self.random.choice((*BESIDE, "", "", "", ""))
        inner = "".join(self.section(depth + 1) for _ in range(self.random.randrange(0, 3))) if depth < 2 else ""
        return f"<sec>{label}{title}{content}{inner}</sec>"

    # ---- documents

    def content(self, version: str) -> str:
        """Title, abstracts and body are in ``blocks`` in the order they are read."""
        body = "".join(self.section() for _ in range(self.random.randrange(1, 3)))
        back = "".join(self.random.choice(DROPPED) for _ in range(self.random.randrange(0, 3)))
        if self.random.randrange(3) == 0:
            back += f"<app-group><app>{self.simple('title')}{self.paragraph()}</app></app-group>"
        if self.random.randrange(4) == 0:
            back += f"<glossary>{self.simple('title')}{self.definitions(2)}</glossary>"
        name = "floats-wrap" if version == "2.3" else "floats-group"
        floats = f"<{name}>{self.figure(1)}{self.table(1)}</{name}>" if self.random.randrange(4) == 0 else ""
        return f"<body>{body}</body><back>{back}</back>{floats}"

    def front(self) -> str:
        """Title and abstract (structured or not)."""
        title = self.simple("article-title")
        abstract = self.paragraph(2)
        if self.random.randrange(3) == 0:
            abstract = "".join(f"<sec>{self.simple('title')}{self.paragraph(2)}</sec>" for _ in range(2))
            del self.blocks[1], self.verbatim[:1]
        return (f"<title-group>{title}</title-group>"
                "<permissions><copyright-statement>ZZZ</copyright-statement></permissions>"
                f"<abstract>{abstract}</abstract>"
                "<abstract abstract-type='graphical'><p>ZZZ</p></abstract><kwd-group><kwd>ZZZ</kwd></kwd-group>")


def _document(random: Random, entities: bool, version: str, part: str, language: str) -> tuple[str, str, Expected]:
    maker = Maker(random, entities)
    front = maker.front()
    rest = maker.content(version)
    return front, rest, Expected(part, language, maker.blocks, maker.verbatim)


def make(random: Random) -> Generated:
    """An article with up to two sub-articles, the second one inside the first."""
    version, entities = random.choice(VERSIONS), random.randrange(3) == 0
    documents, ends = [], ""
    front, rest, expected = _document(random, entities, version, "", random.choice(("en", "fr", "pt")))
    documents.append(expected)
    inner, opened = "", ""
    for number in range(random.choice((0, 0, 1, 2))):
        part = f"s{number}"
        language, kind = random.choice(("es", "de", "ar")), random.choice(("translation", "reply", "reviewer-report"))
        stub, body, expected = _document(random, entities, version, ".".join(filter(None, (opened, part))), language)
        opened = expected.part
        documents.append(expected)
        inner += f"<sub-article article-type='{kind}' id='{part}' xml:lang='{language}'>"
        inner += f"<front-stub>{stub}</front-stub>{body}"
        ends += "</sub-article>"
    links = "xmlns:xlink='http://www.w3.org/1999/xlink' xmlns:mml='http://www.w3.org/1998/Math/MathML'"
    xml = (f"<article {links} article-type='research-article' dtd-version='{version}' "
           f"xml:lang='{documents[0].language}'><front><journal-meta><journal-title>ZZZ</journal-title></journal-meta>"
           "<article-meta><article-id "
           f"pub-id-type='doi'>10.1/x</article-id>{front}</article-meta></front>{rest}{inner}{ends}</article>")
    xml = _namespaced(xml, random.choice(("", "", "", "j:", "default")))
    doctype = f'<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v{version}//EN" "JATS-{version}.dtd">' if entities else ""
    return Generated(f"<?xml version='1.0' encoding='UTF-8'?>\n{doctype}{xml}".encode(), documents)


def _namespaced(xml: str, prefix: str) -> str:
    """The same article with its elements in a namespace, as some archives deliver it."""
    if not prefix:
        return xml
    address = "https://jats.nlm.nih.gov/ns/archiving/1.3/"
    if prefix == "default":
        return xml.replace("<article ", f"<article xmlns='{address}' ", 1)
    protected = re.split(r"(<!\[CDATA\[.*?\]\]>|<!--.*?-->)", xml, flags=re.DOTALL)
    named = [part if number % 2 else re.sub(r"<(/?)([a-z][a-z-]*)(?=[\s/>])", rf"<\1{prefix}\2", part)
             for number, part in enumerate(protected)]
    return "".join(named).replace(f"<{prefix}article ", f"<{prefix}article xmlns:{prefix[:-1]}='{address}' ", 1)


def articles() -> st.SearchStrategy[Generated]:
    """Generated articles; a failing one shrinks to fewer words and plainer markup."""
    return st.randoms(use_true_random=False).map(make)
