"""JATS to text and metadata: word borders, citations, tables, formulas, sub-articles, and files that must be refused."""

import importlib.util
from pathlib import Path

import pytest

from biomistral.corpus.articles.jats import MalformedError, parse

LINK = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"'

ENERGY = """<mml:math><mml:mi>E</mml:mi><mml:mo>=</mml:mo><mml:mi>m</mml:mi><mml:msup><mml:mi>c</mml:mi><mml:mn>2</mml:mn>
</mml:msup></mml:math>"""


def article(body: str, meta: str = "", after: str = "", language: str = "") -> bytes:
    """A small article around a body."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "JATS-archivearticle1.dtd">
<article article-type="research-article" {language} {LINK}><front><journal-meta><journal-title-group>
<journal-title>Journal of Tests</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmc">1234</article-id><article-id pub-id-type="doi">10.1/ABC</article-id>
<title-group><article-title>Effects of <italic>E. coli</italic> on H<sub>2</sub>O</article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>Curie</surname><given-names>Marie</given-names></name></contrib>
<contrib contrib-type="author"><collab>The Group</collab></contrib></contrib-group>
<pub-date pub-type="collection"><year>2019</year></pub-date><pub-date pub-type="epub"><year>2018</year></pub-date>
<permissions><license license-type="open-access" xlink:href="http://creativecommons.org/licenses/by/4.0/">
<license-p>Open.</license-p></license></permissions>{meta}</article-meta></front><body>{body}</body>{after}</article>""".encode()


def blocks(body: str) -> list[str]:
    """Body blocks of an article, without its title."""
    return parse(article(body))[0].text.split("\n\n")[1:]


def test_metadata() -> None:
    found = parse(article("<sec><title>Methods</title><p>Text.</p></sec>"))[0]
    assert (found.id, found.doi, found.year, found.language) == ("PMC1234", "10.1/abc", 2018, "en")
    assert found.journal == "Journal of Tests"
    assert found.title == "Effects of E. coli on H2O"
    assert found.authors == ("Marie Curie", "The Group")
    assert found.sections == ("Methods",)
    assert found.licence_statements == ("http://creativecommons.org/licenses/by/4.0/", "open-access", "\nOpen.")
    assert found.url == "https://pmc.ncbi.nlm.nih.gov/articles/PMC1234/"


@pytest.mark.parametrize(("markup", "expected"), [
    ("tested <italic>in vivo</italic> the IC<sub>50</sub> of <italic>E. coli</italic>", "tested in vivo the IC50 of E. coli"),
    ("anti<bold>body</bold>", "antibody"),
    ("10<sup>6</sup> cells, Ca<sup>2+</sup>, the 1<sup>st</sup> m<sup>2</sup>", "10^6 cells, Ca^2+, the 1st m^2"),
    ("one<break/>two", "one two"),
    ("caf\u0065\u0301\u00a0au\u2009lait, soft\u00adhyphen", "caf\u00e9 au lait, softhyphen"),
    ("a&nbsp;b &alpha;", "a b \u03b1"),
    ("shown [<xref ref-type='bibr'>1</xref>, <xref ref-type='bibr'>2</xref>&#8211;<xref ref-type='bibr'>4</xref>].", "shown."),
    ("shown<sup><xref ref-type='bibr'>1</xref>,<xref ref-type='bibr'>2</xref></sup>, then", "shown, then"),
    ("known (<xref ref-type='bibr'>Lee, 2010</xref>; <xref ref-type='bibr'>Kim et al., 2011</xref>).", "known."),
    ("known (see <xref ref-type='bibr'>Lee, 2010</xref>) well", "known well"),
    ("<xref ref-type='bibr'>Lee et al.</xref> (<xref ref-type='bibr'>2010</xref>) found", "Lee et al. found"),
    ("rates (e.g. [<xref ref-type='bibr'>3</xref>]) rose", "rates rose"),
    ("rates (Figure 2, <xref ref-type='bibr'>3</xref>) rose", "rates (Figure 2) rose"),
    ("see <xref ref-type='fig'>Fig. 2</xref>", "see Fig. 2"),
    (f"the energy <inline-formula>{ENERGY}</inline-formula> is", "the energy E = mc^2 is"),
    ("<inline-formula><tex-math>\\documentclass{x}\\begin{document}$$a+b$$\\end{document}</tex-math></inline-formula>", "$a+b$"),
])
def test_inline_markup(markup: str, expected: str) -> None:
    assert blocks(f"<p>{markup}</p>") == [expected]


def test_blocks_stay_in_order() -> None:
    body = """<sec><label>1</label><title>Results</title><p>Before
      <list><list-item><p>one</p></list-item><list-item><p>two</p></list-item></list> after.</p>
      <fig><label>Figure 1</label><caption><title>A view</title><p>Of it.</p></caption><graphic xlink:href="x"/></fig></sec>
      <sec><title>Terms</title><def-list><def-item><term>BP</term><def><p>blood pressure</p></def></def-item></def-list>
      <fn-group><fn><p>note</p></fn></fn-group></sec>"""
    assert blocks(body) == ["Results", "Before", "- one", "- two", "after.", "Figure 1. A view. Of it.", "Terms",
                            "BP: blood pressure"]


def test_table_rows_keep_their_cells_apart() -> None:
    table = """<table-wrap><label>Table 1</label><caption><p>Doses</p></caption><alternatives><graphic xlink:href="x"/>
      <table><thead><tr><th>Drug</th><th>mg</th></tr></thead><tbody><tr><td>A<sup>a</sup></td><td>12<break/>13</td></tr>
      <tr><td/><td>5.0</td></tr></tbody></table></alternatives>
      <table-wrap-foot><p>a: oral</p></table-wrap-foot></table-wrap>"""
    assert blocks(f"<p>Text {table}</p>") == ["Text", "Table 1. Doses.", "Drug | mg\nA^a | 12 13\n | 5.0", "a: oral"]


def test_references_and_other_abstracts_are_left_out() -> None:
    meta = """<abstract><p>Main.</p></abstract><abstract abstract-type='graphical'><p>Picture.</p></abstract>
      <trans-abstract xml:lang='fr'><p>R\u00e9sum\u00e9.</p></trans-abstract>"""
    back = "<back><ack><p>Thanks.</p></ack><ref-list><ref><mixed-citation>Ref</mixed-citation></ref></ref-list></back>"
    found = parse(article("<p>Body.</p>", meta, back))[0]
    assert found.text == "Effects of E. coli on H2O\n\nMain.\n\nBody."


def test_sub_articles_are_documents_of_their_own() -> None:
    part = """<sub-article article-type="translation" id="s1" xml:lang="pt"><front-stub><title-group><article-title>Efeitos
      </article-title></title-group></front-stub><body><p>Corpo.</p></body></sub-article>"""
    main, sub = parse(article("<p>Body.</p>", after=part))
    assert "Corpo" not in main.text
    assert (sub.id, sub.language, sub.article_type, sub.text) == ("PMC1234.s1", "pt", "translation", "Efeitos\n\nCorpo.")
    assert sub.licence_statements == main.licence_statements
    assert sub.authors == main.authors


def test_article_sets_with_a_namespace() -> None:
    inner = article("<p>Body.</p>").split(b"?>", 1)[1].split(b".dtd\">", 1)[1]
    inner = inner.replace(b"<article ", b'<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.3/" ', 1)
    found = parse(b"<OAI-PMH><metadata>" + inner + b"</metadata></OAI-PMH>")
    assert [each.text for each in found] == ["Effects of E. coli on H2O\n\nBody."]


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "malformed"), (b"not xml", "malformed"), (b"<article><body><p>cut off", "malformed"), (b"\xff\xfe\x00", "malformed"),
    (b"<html><p>x</p></html>", "not_an_article"),
    (b'<!DOCTYPE article [<!ENTITY x "boom">]><article><body><p>&x;</p></body></article>', "entities"),
    (b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/passwd">]><article><body><p>&x;</p></body></article>', "entities"),
    (b"<article>" + b"<sec>" * 5000 + b"</sec>" * 5000 + b"</article>", "malformed"),
])
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(data)
    assert caught.value.reason == reason


def test_entity_bombs_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE article [<!ENTITY a "' + b"x" * 1000 + b'">' + b"".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 50}">'.encode() for n in range(6)) + b"]><article><p>&g;</p></article>"
    with pytest.raises(MalformedError):
        parse(bomb)


def test_an_article_without_anything_is_empty_not_a_crash() -> None:
    found = parse(b"<article/>")[0]
    assert (found.id, found.text, found.year, found.authors, found.language) == ("", "", None, (), "en")


def test_real_articles() -> None:
    spec = importlib.util.find_spec("allofplos")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("allofplos is not installed")
    files = sorted((Path(next(iter(spec.submodule_search_locations))) / "starter_corpus").glob("*.xml"))[::8]
    for file in files:
        found = parse(file.read_bytes())[0]
        assert found.id.startswith("10.1371/")
        assert found.title
        assert found.text.startswith(found.title)
        assert not set("\x01\x02\x03\x04\u200b") & set(found.text)
