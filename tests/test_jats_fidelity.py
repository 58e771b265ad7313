"""No word of an article is lost, fused, split or invented, and nothing thrown at the reader does more than be refused."""

import contextlib
import socket
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from biomistral.corpus.articles.jats import MalformedError, parse
from jats_generator import Generated, articles, make, normal, words

sys.path.insert(0, str(Path(__file__).parents[1] / "perf"))
from fuzz_jats import attempt, mutants

REFUSALS = {"malformed", "entities", "not_an_article", "encoding"}
SEEDS = [make(Random(number)).xml for number in range(3)]


def said(body: str) -> str:
    """What a body reads as, its blocks apart by a bar."""
    xml = f"""<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="x" xmlns:mml="m"><body>{body}</body></article>"""
    return parse(xml.encode())[0].text.replace("\n\n", " | ")


def cite(text: str) -> str:
    """``{3}`` is a citation of reference 3, ``{Lee, 2010}`` one by name."""
    return text.replace("{", "<xref ref-type='bibr' rid='b'>").replace("}", "</xref>")


@given(articles())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_words_are_those_that_were_written(generated: Generated) -> None:
    found = parse(generated.xml)
    assert [(each.part, each.language) for each in found] == [(each.part, each.language) for each in generated.documents]
    for article, expected in zip(found, generated.documents, strict=True):
        assert words(article.text) == words(normal(" ".join(expected.blocks)))
        text = article.text.replace("^", "")
        for paragraph in expected.verbatim:
            assert paragraph in text


@pytest.mark.parametrize(("markup", "expected"), [
    ("as shown [{1},{2}\u2013{4}].", "as shown."),
    ("as shown [{1}\u2013{4}], and", "as shown, and"),
    ("as shown<sup>{1},{2}</sup> by us", "as shown by us"),
    ("as shown.<sup>{1}\u2013{4}</sup> Then", "as shown. Then"),
    ("as shown ({1}; {2}) here", "as shown here"),
    ("Smith <italic>et al.</italic> [{3}] showed", "Smith et al. showed"),
    ("{Smith et al. (2010)} showed", "Smith et al. (2010) showed"),
    ("{Smith et al.} ({2010}) showed", "Smith et al. showed"),
    ("known ({Lee, 2010}; {Kim et al., 2011}).", "known."),
    ("known (see also {Lee, 2010}, {2011}).", "known."),
    ("known (Fig. 2; {Lee, 2010}).", "known (Fig. 2; Lee, 2010)."),
    ("as in ref. {5}, and", "as in ref. 5, and"),
    ("as described in [{3}].", "as described in [3]."),
    ("according to [{3},{4}] the", "according to [3,4] the"),
    ("rate<sup>{1}</sup> 1,000<sup>{2}</sup> doses", "rate 1,000 doses"),
    ("rate [{1}] 12 [{2}] doses", "rate 12 doses"),
    ("rate<sup>{1}</sup> 12 {Lee et al.} [{2}] saw", "rate 12 Lee et al. saw"),
    ("assay [{17}]for wheat", "assay for wheat"),
    ("the so\u00adin [{1}\u2013{4}] end", "the soin end"),
    ("particles [\ufeff{51}]. Then", "particles. Then"),
    ("see <xref ref-type='fig'>Figure 2</xref><xref ref-type='fn'><sup>a</sup></xref>.", "see Figure 2."),
    ("(<xref ref-type='table'>Table 1</xref>; [{7}])", "(Table 1)"),
])
def test_citations_go_without_holes(markup: str, expected: str) -> None:
    assert said(f"<p>{cite(markup)}</p>") == expected


@pytest.mark.parametrize(("markup", "expected"), [
    ("IC<sub>50</sub> of <italic>E. coli</italic> in H<sub>2</sub>O", "IC50 of E. coli in H2O"),
    ("Ca<sup>2+</sup>, 10<sup>\u22126</sup> m<sup>2</sup>", "Ca^2+, 10^\u22126 m^2"),
    ("<italic>p</italic> &lt; 0.05 at 5&#160;mg&#8201;kg<sup>-1</sup>", "p < 0.05 at 5 mg kg^-1"),
    ("10<sup>6 </sup>cells, <italic>p </italic>= 3", "10^6 cells, p = 3"),
    ("CO<sub>\n  2\n</sub> and K<sup>\n  +\n</sup> ions", "CO2 and K^+ ions"),
    ("anti<italic>gen</italic>-<bold>free</bold>", "antigen-free"),
    ("<bold><italic>a</italic></bold><sub><italic>b</italic></sub>c", "abc"),
    ("one<break/>two", "one two"),
    ("IC<!-- comment -->50, b<?page 3?>c, <![CDATA[a<b]]>&amp;c", "IC50, bc, a<b&c"),
    ("e<italic>&#x301;</italic>t&#xe9;", "\u00e9t\u00e9"),
    ("word<fn><p>note</p></fn>, next", "word, next"),
    ("gene<index-term><term>gene</term></index-term>, next", "gene, next"),
    ("&alpha;-helix&nbsp;&mdash; end", "\u03b1-helix \u2014 end"),
    ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937",
     "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 "
     "\u0915\u094d\u200d\u0937"),
    ("a&#xE000;b &#xE003;c &#xF0B7;d", "ab c d"),
])
def test_markup_neither_fuses_nor_splits(markup: str, expected: str) -> None:
    assert said(f"<p>{markup}</p>") == expected


@pytest.mark.parametrize(("body", "expected"), [
    ("<sec><title>A</title><p>b</p><sec><title>C</title></sec></sec><p>d</p>", "A | b | C | d"),
    ("<p>a<list><list-item><p>b</p></list-item></list>c</p>", "a | - b | c"),
    ("<array><tbody><tr><td>BP</td><td>blood</td></tr></tbody></array>", "BP | blood"),
    ("<table-wrap><table><tr><td>A</td><td><bold>+</bold></td><td><p>\u2013</p></td></tr></table></table-wrap>",
     "A | + | \u2013"),
    ("<boxed-text><sec><title>T</title><p>x</p></sec></boxed-text><disp-quote><p>y</p></disp-quote>", "T | x | y"),
    ("<def-list><def-item><term><bold>\u2192</bold></term><def><p>leads to</p></def></def-item></def-list>",
     "\u2192: leads to"),
    ("<speech><speaker>Ann</speaker><p>hello</p></speech>", "Ann | hello"),
])
def test_blocks_stand_apart(body: str, expected: str) -> None:
    assert said(body) == expected


def test_a_table_in_a_cell_is_read_once() -> None:
    table = "<table><tr><td>a<table><tr><td>b</td></tr></table></td><td>c</td></tr><tr><td>d</td></tr></table>"
    assert said(table).replace("|", " ").split() == ["a", "b", "c", "d"]


EXTERNAL = b"""<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "%(to)s" [<!ENTITY %% p SYSTEM "%(to)s"> %%p;
<!ENTITY x SYSTEM "%(to)s"><!ENTITY y PUBLIC "-//X" "%(to)s">]><article xmlns:xi="http://www.w3.org/2001/XInclude"
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="%(to)s %(to)s"><?xml-stylesheet href="%(to)s"?>
<body><p>kept <xi:include href="%(to)s" parse="text"/>%(used)s</p></body></article>"""


@pytest.mark.parametrize("used", [b"", b"&x;", b"&y;"])
def test_nothing_outside_the_bytes_is_read(used: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor an address that a DTD, an entity, an inclusion or a schema names; the server would see a knock."""
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        places = (f"http://127.0.0.1:{server.getsockname()[1]}/a.dtd", f"ftp://127.0.0.1:{server.getsockname()[1]}/a",
                  secret.as_uri(), str(secret))
        for place in places:
            with contextlib.suppress(MalformedError):
                assert "SECRET" not in parse(EXTERNAL % {b"to": place.encode(), b"used": used})[0].text
        with pytest.raises(TimeoutError):
            server.accept()
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(MalformedError):
        parse(EXTERNAL % {b"to": b"http://127.0.0.1/a", b"used": b"&x;"})


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_mutants_are_read_or_refused(seed: int) -> None:
    for data in mutants(SEEDS, seed, 20):
        outcome = attempt(data)
        assert outcome.startswith(("parsed", *(f"refused: {reason}" for reason in REFUSALS))), (outcome, data[:2000])


@pytest.mark.parametrize("body", [
    "<table><tr><td>" * 14 + "x" + "</td></tr></table>" * 14,
    "<array><tbody><tr><td>" * 14 + "x" + "</td></tr></tbody></array>" * 14,
    "<fig><caption><p>" * 80 + "x" + "</p></caption></fig>" * 80,
    "<list><list-item><p>" * 80 + "x" + "</p></list-item></list>" * 80,
    "<p>" + "\u0301\u0327" * 30_000 + "</p>", "<p>" + "(" * 30_000 + cite("{1}") + "</p>",
    "<p>" + cite("w [{1},{2}] ") * 5_000 + "</p>",
    "<p>" + cite("{1}") + "and " * 50_000 + cite("{1}") + "</p>", "<p>" + "<sup>2</sup>" * 20_000 + "</p>",
    "<p>" + " " * 500_000 + cite("{1}") + "</p>", "<p>" + cite("(e.g. " * 5_000 + "{1}" + ")" * 5_000) + "</p>",
    "<inline-formula><math>" + "<msup><mi>x</mi>" * 200 + "<mi>y</mi>" + "</msup>" * 200 + "</math></inline-formula>",
], ids=lambda body: body[:24])
def test_time_and_text_grow_with_the_input(body: str) -> None:
    """What takes a second here (30 kB to 0.5 MB) would hang in 64 MB; and the text says no more than is there."""
    started = time.process_time()
    try:
        text = said(body)
    except MalformedError:
        text = ""
    assert time.process_time() - started < 1
    assert len(text) <= 2 * len(body)


def test_nested_licences_do_not_multiply() -> None:
    prose = "<license><license-p>" * 40 + "open " * 2_000 + "</license-p></license>" * 40
    meta = f"<article-meta><permissions>{prose}</permissions></article-meta>"
    found = parse(f"<article><front>{meta}</front></article>".encode())
    assert sum(map(len, found[0].licence_statements)) < 50_000


@pytest.mark.parametrize("data", [
    "<article><body><p>été</p></body></article>".encode("latin-1"),
    b"\xef\xbb\xbf<article><body><p>ok</p></body></article>",
    "<?xml version='1.0' encoding='UTF-16'?><article><body><p>ok \u00e9</p></body></article>".encode("utf-16"),
    b"<?xml version='1.0' encoding='UTF-16'?><article><body><p>not it</p></body></article>",
    b"<?xml version='1.0' encoding='no-such'?><article><body><p>x</p></body></article>",
    b"<?xml version='1.0' encoding='idna'?><article><body><p>x</p></body></article>",
    b"<article><body><p>nul \x00</p></body></article>", b"<article><body><p>&#0; &#xD800;</p></body></article>",
    b"\x00\x00\x00<\x00\x00\x00a", b"<article" + b" a='" + b"x" * 11_000_000 + b"'/>",
    b"<article>" + b"<sec>" * 250 + b"<p>deep</p>" + b"</sec>" * 250 + b"</article>",
    b"<article><body>" + b"<p>" * 255,
    b"<article><body>" + b"<italic>" * 200 + b"x" + b"</italic>" * 200 + b"</body></article>",
])
def test_hostile_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except MalformedError as error:
        reason, detail = error.reason, str(error)
        assert reason in REFUSALS
        assert "\n" not in detail
    else:
        assert all("\x00" not in each.text for each in found)
