"""Packed files, archives and article sets: safe, bounded in memory, and nothing sound before the damage is lost."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from biomistral.corpus.sources import streams
from biomistral.corpus.sources.article_sets import ArticleSplitter, is_article_set
from biomistral.corpus.sources.streams import DamagedError, Stream, open_unpacked, unpacked
from biomistral.corpus.sources.tar import TarReader
from test_sources import ONE, THREE, TWO, good, read, reasons, special, tar, zstd


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the fast inflate, where it is installed, and without it."""
    if request.param == "zlib":
        monkeypatch.setattr(streams, "_isal", None)
    elif streams._isal is None:
        pytest.skip("isal is not installed")
    return str(request.param)


# ---- streams --------------------------------------------------------------------------------------------------------


def taken(data: bytes) -> tuple[bytes, str]:
    """What comes out of a packed file, and how it ends."""
    stream = Stream(unpacked(io.BytesIO(data)))
    parts = []
    while part := stream.read(70_000):
        parts.append(part)
    return b"".join(parts), stream.damage.reason if stream.damage else ""


TEXT = b"".join(b"%d pigs and %d cows; " % (number, number * number) for number in range(30_000))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: data,
                                  lambda data: pa.compress(data, codec="zstd", asbytes=True)])
def test_packings_are_told_by_the_bytes(pack: Any) -> None:
    assert taken(pack(TEXT)) == (TEXT, "")
    assert taken(pack(b"")) == (b"", "")


def test_gzip_members_in_a_row_and_zeros_after_them(inflater: str) -> None:
    assert taken(gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(b"more") + bytes(100_000)) == (TEXT + b"more", "")
    assert taken(gzip.compress(TEXT) + b"something else") == (TEXT, "damaged")
    stored = zlib.compressobj(0, zlib.DEFLATED, 31)
    assert taken(stored.compress(TEXT) + stored.flush()) == (TEXT, "")


def test_everything_before_the_damage_is_given(inflater: str) -> None:
    packed = gzip.compress(TEXT)
    assert taken(packed[:-4]) == (TEXT, "truncated")
    assert taken(packed[:-8] + b"1234" + packed[-4:]) == (TEXT, "damaged")  # the checksum is wrong, nothing else
    assert taken(packed[:-1] + b"\xff") == (TEXT, "damaged")  # the length
    for place in (len(packed) // 3, len(packed) // 2, len(packed) - 100):
        data, reason = taken(packed[:place])
        assert reason == "truncated"
        assert TEXT.startswith(data)
        assert len(data) > len(TEXT) * place / len(packed) * 0.8
    middle = len(packed) // 2
    data, reason = taken(packed[:middle] + b"\xff" * 2000 + packed[middle + 2000:])
    assert reason == "damaged"
    assert data[:len(TEXT) // 3] == TEXT[:len(TEXT) // 3]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fast_and_plain_inflate_agree_on_anything(data: st.DataObject) -> None:
    """The same bytes and the same end, from sound, cut and altered files: a corpus does not depend on what is installed."""
    if streams._isal is None:
        pytest.skip("isal is not installed")
    packed = bytearray(gzip.compress(TEXT[:data.draw(st.integers(0, 200_000))], data.draw(st.sampled_from([0, 1, 6, 9]))))
    for _ in range(data.draw(st.integers(0, 2))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.integers(len(packed) // 2, len(packed)))
    packed = packed[:end] + data.draw(st.sampled_from([b"", b"\0", b"x", bytes(packed)]))
    fast, given = streams._isal, taken(bytes(packed))
    try:
        streams._isal = None
        assert taken(bytes(packed)) == given
    finally:
        streams._isal = fast


@pytest.mark.parametrize("pack", ["gzip", "bz2", "xz", "zstd"])
def test_bombs(tmp_path: Path, pack: str) -> None:
    packed = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstd}[pack](bytes(100 << 20))
    path = tmp_path / "bomb.xml.gz"
    path.write_bytes(packed)
    tracemalloc.start()
    with pytest.raises(DamagedError, match="more than 200 times its size"):
        for _ in open_unpacked(path):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20  # a dictionary of xz has 8 MB
    items = read(tmp_path, max_document_mb=80)
    assert reasons(items) == {"bomb.xml.gz": "bomb"}


# ---- tar ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pack"), [("a.tar", ""), ("a.tar.gz", "gz"), ("a.tgz", "gz"), ("a.tar.bz2", "bz2"),
                                            ("a.tar.xz", "xz"), ("a.TAR.GZ", ""), ("a.tar", "gz")])
def test_archives(tmp_path: Path, name: str, pack: str, inflater: str) -> None:
    (tmp_path / name).write_bytes(tar(special("x", tarfile.DIRTYPE), ("x/1.xml", ONE), ("x/figure.jpg", b"\xff"),
                                      special("folder.xml", tarfile.DIRTYPE), ("x/2.nxml.gz", gzip.compress(TWO)), pack=pack))
    items = read(tmp_path / name)
    assert [(item.name, item.data, item.reason) for item in items] == [("x/1.xml", ONE, ""), ("x/2.nxml.gz", TWO, "")]


names = st.text(st.characters(blacklist_characters="\0/\\", blacklist_categories=["Cs"]), min_size=1, max_size=90).filter(
    lambda name: name not in (".", ".."))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), st.binary(max_size=1500)), max_size=6),
       st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_our_reader_agrees_with_the_standard_library(members: list[tuple[list[str], bytes]], form: int) -> None:
    packed = []
    for parts, data in members:
        name = "/".join(parts)
        if form == tarfile.USTAR_FORMAT and (not name.isascii() or len(name) > 90):
            name = re.sub(r"[^ -~]", "_", name)[:90].rstrip("/") or "_"
        packed.append((name, data))
    archive = tar(*packed, form=form)
    with tarfile.open(fileobj=io.BytesIO(archive)) as theirs:
        expected = [(member.name, theirs.extractfile(member).read()) for member in theirs]  # type: ignore[union-attr]
    reader = TarReader(Stream(iter([archive[:700], archive[700:]])))
    assert [(member.name, reader.read()) for member in reader] == expected == packed


def test_unsafe_members(tmp_path: Path) -> None:
    bad = {"../../up.xml": ONE, "/abs.xml": ONE, "a/../../b.xml": ONE, "a\\..\\c.xml": ONE}
    kinds = {"soft.xml": tarfile.SYMTYPE, "hard.xml": tarfile.LNKTYPE, "char.xml": tarfile.CHRTYPE, "block.xml": tarfile.BLKTYPE,
             "pipe.xml": tarfile.FIFOTYPE}
    links = [special(name, kind, linkname="/etc/passwd") for name, kind in kinds.items()]
    (tmp_path / "a.tar.gz").write_bytes(tar(("1.xml", ONE), *bad.items(), *links, ("2.xml", TWO), pack="gz"))
    items = read(tmp_path / "a.tar.gz")
    assert good(items) == [ONE, TWO]
    assert reasons(items) == dict.fromkeys([*bad, *kinds], "unsafe_member")


def test_files_with_holes_are_refused(tmp_path: Path) -> None:
    one = io.BytesIO()
    with tarfile.open(fileobj=one, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("GNUSparseFile.0/holes.xml")
        info.size = 1024
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9999"}
        archive.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(1024, b"\0")))
        end = one.tell()
    old = bytearray(special("old.xml", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
    old[482] = 1  # its map goes on in a block of its own
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + 256 + sum(old[156:]))
    (tmp_path / "a.tar").write_bytes(one.getvalue()[:end] + bytes(old) + bytes(512) + bytes(512) + tar(("after.xml", TWO)))
    items = read(tmp_path / "a.tar")
    assert reasons(items) == {"GNUSparseFile.0/holes.xml": "unsafe_member", "old.xml": "unsafe_member"}
    assert good(items) == [TWO]


def test_members_before_a_break_are_kept(tmp_path: Path, inflater: str) -> None:
    noise = [b"<article>" + os.urandom(40_000).hex().encode() + b"</article>" for _ in range(6)]
    whole = tar(*((f"{number}.xml", data) for number, data in enumerate(noise)), pack="gz")
    path = tmp_path / "a.tar.gz"
    path.write_bytes(whole[:len(whole) * 2 // 3])
    items = read(path)
    assert good(items) == noise[:len(items) - 1]
    assert 3 <= len(items) - 1 <= 4
    assert reasons(items) == {"a.tar.gz": "truncated"}
    path.write_bytes(whole[:-8] + bytes(8))
    items = read(path)
    assert (good(items), reasons(items)) == (noise, {"a.tar.gz": "damaged"})
    plain = bytearray(gzip.decompress(whole))
    header = plain.index(b"3.xml")
    plain[header + 2] ^= 1
    path.write_bytes(gzip.compress(bytes(plain)))
    items = read(path)
    assert (good(items), reasons(items)) == (noise[:3], {"a.tar.gz": "damaged"})
    assert "checksum" in items[-1].detail


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty"), (gzip.compress(b""), "empty"), (tar(), "empty"), (tar(("a.txt", b"x")), "empty"), (ONE * 20, "damaged"),
    (gzip.compress(ONE * 20), "damaged"), (gzip.compress(ONE * 20)[:40], "truncated"), (tar(("1.jpg", ONE))[:600], "truncated"),
    (b"PK\3\4 not a tar", "truncated"), (os.urandom(5000), "damaged")])
def test_archives_without_articles(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    assert reasons(read(tmp_path / "a.tar.gz")) == {"a.tar.gz": reason}


def test_an_archive_without_an_end_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(("1.xml", ONE))[:1024])  # a header and its data: cut off just between two members
    items = read(tmp_path / "a.tar")
    assert (good(items), reasons(items)) == ([ONE], {"a.tar": "truncated"})


def test_joined_archives_and_double_names(tmp_path: Path, inflater: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tar(("1.xml", ONE), ("1.xml", TWO), pack="gz") + tar(("2.xml", THREE), pack="gz"))
    items = read(tmp_path / "a.tar.gz")
    assert [(item.name, item.data) for item in items] == [("1.xml", ONE), ("1.xml", TWO), ("2.xml", THREE)]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("caf\xe9.xml")
        info.size = len(ONE)
        archive.addfile(info, io.BytesIO(ONE))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    assert [(item.name, item.data) for item in read(tmp_path / "a.tar")] == [("caf\\xe9.xml", ONE)]


@pytest.mark.parametrize(("kind", "size"), [(b"x", 1 << 33), (b"L", 1 << 33), (b"g", 2 << 20)])
def test_headers_are_bounded(tmp_path: Path, kind: bytes, size: int) -> None:
    header = special("long", kind, size=size).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(tar(("1.xml", ONE))[:1024] + header + bytes(1 << 20))
    items = read(tmp_path / "a.tar")
    assert (good(items), reasons(items)) == ([ONE], {"a.tar": "damaged"})


@pytest.mark.parametrize("record", [b"abc", b"9999 path=x\n", b"0 path=x\n", b"12 size=-1\n\n", b"11 size=x\n\n", b"5 x\n"])
def test_extended_headers_that_make_no_sense(tmp_path: Path, record: bytes) -> None:
    header = special("pax", b"x", size=len(record)).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(header + record.ljust(512, b"\0") + tar(("1.xml", ONE)))
    items = read(tmp_path / "a.tar")
    assert set(reasons(items).values()) <= {"damaged", "truncated"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_of_a_tar_escapes(data: st.DataObject) -> None:
    archive = bytearray(tar(("1.xml", ONE), ("long" * 40 + ".xml", TWO), ("\xe9" * 60 + ".xml", THREE)))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    reader = TarReader(Stream(iter([bytes(archive[:data.draw(st.integers(0, len(archive)))])])))
    sizes = []
    with contextlib.suppress(DamagedError):  # and nothing else
        for member in reader:
            if member.kind == "file" and member.size < 1 << 20:
                sizes.append((len(reader.read()), member.size))
    assert all(read == stated for read, stated in sizes)


# ---- zip ------------------------------------------------------------------------------------------------------------


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.xml", ONE)
        archive.writestr("../up.xml", ONE)
        archive.writestr("2.xml.gz", gzip.compress(TWO))
        link = zipfile.ZipInfo("link.xml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder.xml/", b"")
        archive.writestr("3.xml", THREE)
    items = read(path)
    assert good(items) == [ONE, TWO, THREE]
    assert reasons(items) == {"../up.xml": "unsafe_member", "link.xml": "unsafe_member"}
    data = bytearray(path.read_bytes())
    at = data.index(b"1.xml") + 12
    data[at] ^= 0xFF
    path.write_bytes(data)
    assert reasons(read(path))["1.xml"] == "damaged"
    assert good(read(path)) == [TWO, THREE]
    path.write_bytes(data[:-30])
    assert reasons(read(path)) == {"a.zip": "damaged"}


def test_zip_bombs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}.xml", bytes(10 << 20))
    items = read(tmp_path / "a.zip")
    assert Counter(item.reason for item in items) == {"": 7, "bomb": 1}


# ---- article sets ---------------------------------------------------------------------------------------------------

DUMP = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- <article> is not one --><!DOCTYPE articles [<!ENTITY x "<article>">]>
<articles xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml='http://www.w3.org/1998/Math/MathML'>
<article xmlns:mml="http://own" article-type="a>b"><article-title>1</article-title><p>
<!-- </article> --><![CDATA[</article><article>]]><?x </article>?><xref xlink:href="x"/></p></article>
<!-- <article>hidden</article> --><![CDATA[<article>]]>
<article/><article dtd="1.0"
>2<sub-article><p>s</p></sub-article></article ><article><p>3</p><article><p>4</p></article></articles>"""


def split(data: bytes, size: int, limit: int = 1 << 20) -> Iterator[bytes | None]:
    parts = iter([data[start:start + size] for start in range(400, len(data), size)])
    return ArticleSplitter(limit).split(data[:400], parts)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1 << 20])
def test_an_article_set_is_taken_apart(size: int) -> None:
    assert is_article_set(DUMP)
    articles = list(split(DUMP, size))
    assert [article[:8] for article in articles if article] == [b"<article"] * 5
    first, empty, second, unclosed, last = articles
    assert first is not None
    root = etree.fromstring(first)
    assert root.nsmap == {"mml": "http://own", "xlink": "http://www.w3.org/1999/xlink"}
    assert root.xpath("string(.//p)") == "\n</article><article>"
    assert root.find("p/xref").get("{http://www.w3.org/1999/xlink}href") == "x"
    assert [etree.fromstring(article or b"").xpath("string()") for article in (empty, second, last)] == ["", "2s", "4"]
    assert unclosed is not None
    with pytest.raises(etree.XMLSyntaxError):  # the one that is not closed is bad by itself, and harms no other
        etree.fromstring(unclosed)


def test_an_article_set_in_files(tmp_path: Path) -> None:
    (tmp_path / "PMC1_PMC9.xml.gz").write_bytes(gzip.compress(DUMP))
    (tmp_path / "cut.xml.gz").write_bytes(gzip.compress(DUMP)[:-20])
    (tmp_path / "none.xml").write_bytes(b"<articles></articles>")
    (tmp_path / "one.xml").write_bytes(ONE)
    (tmp_path / "open.xml").write_bytes(DUMP[:-30])
    (tmp_path / "utf16.xml").write_bytes("<articles><article/></articles>".encode("utf-16"))
    items = read(tmp_path)
    whole = [item.name for item in items if item.name.startswith("PMC1")]
    assert whole == [f"PMC1_PMC9.xml.gz#{number}" for number in range(1, 6)]
    assert reasons(items) == {"cut.xml.gz": "truncated", "none.xml": "empty", "open.xml": "truncated"}
    assert [item.data for item in items if item.name in ("one.xml", "utf16.xml")] == [
        ONE, "<articles><article/></articles>".encode("utf-16")]  # the parser's matter


def test_prefixes_encodings_and_default_namespaces() -> None:
    text = """<?xml version="1.0" encoding="ISO-8859-1"?><j:articles xmlns:j="urn:j" xmlns="urn:d"><j:article><p>é</p></j:article>
        <j:article xmlns="urn:e"><p>ü</p></j:article></j:articles>"""
    first, second = (etree.fromstring(article or b"") for article in split(text.encode("latin-1"), 5))
    assert (first.tag, first[0].tag, first[0].text) == ("{urn:j}article", "{urn:d}p", "é")
    assert (second.tag, second[0].tag, second[0].text) == ("{urn:j}article", "{urn:e}p", "ü")


@pytest.mark.parametrize(("head", "expected"), [
    (b"<articles>", True), (b"\xef\xbb\xbf \n<articles>", True), (b"<article><articles>", False), (b"<pmc-articleset>", True),
    (b"<?xml version='1.0'?>\n<!DOCTYPE article PUBLIC '-//X' 'x>y.dtd'><article>", False), (b"<OAI-PMH xmlns='x'>", True),
    (b"<!-- <articles> --><article>", False), (b"", False), (b"<articles", False), (b"<!--", False), (b"<?xml", False),
    (b"<!DOCTYPE a [<!-- ]> --> <!ENTITY b 'c'>", False), (b"plain text", False), (b"\x1f\x8b", False)])
def test_what_is_an_article_set(head: bytes, expected: bool) -> None:
    assert is_article_set(head) is expected


inside = st.lists(st.sampled_from([
    "word ", "<p>x</p>", "<!-- </article> -->", "<![CDATA[</article>]]>", "<?pi <article> ?>", "<article-title>t</article-title>",
    "<a b='>'/>", "é", "<!---->", "<x:y xmlns:x='u'/>"]), max_size=6)


@settings(max_examples=120, deadline=None)
@given(st.lists(inside, max_size=6), st.sampled_from(["", "\n", "<!-- <article> -->", "<?x <article?>"]), st.integers(1, 60))
def test_splitting_is_what_a_parser_sees(contents: list[list[str]], between: str, size: int) -> None:
    text = "<articles>" + between.join("<article>" + "".join(parts) + "</article>" for parts in contents) + "</articles>"
    data = text.encode().ljust(401)
    expected = [etree.tostring(article, with_tail=False) for article in etree.fromstring(data).iter("article")]
    assert [etree.tostring(etree.fromstring(article or b"")) for article in split(data, size)] == expected


def test_a_tag_without_an_end_ends_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<articles>" + ONE + b"<article a='" + bytes(3 << 20) + ONE + b"</articles>")
    items = read(tmp_path / "a.xml")
    assert (good(items), reasons(items)) == ([ONE], {"a.xml": "damaged"})
