"""Sources: every kind of file gives its documents; what is wrong with one is a counted refusal, and the rest is read."""

import gzip
import io
import json
import os
import tarfile
import tempfile
import tracemalloc
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources.filelists import FileList
from biomistral.corpus.sources.units import FILES_A_UNIT, Item, batches, items_of, units_of
from biomistral.errors import UserError
from biomistral.recipe import parse

ONE, TWO, THREE = (f"<article><p>{'text ' * 50}{number}</p></article>".encode() for number in (1, 2, 3))


def read(path: Path, **given: Any) -> list[Item]:
    source = parse(SourceSettings, {"input": str(path), **given})
    return [item for unit in units_of(0, source, path) for item in items_of(unit)]


def reasons(items: list[Item]) -> dict[str, str]:
    return {item.name: item.reason for item in items if item.reason}


def good(items: list[Item]) -> list[bytes]:
    return [item.data for item in items if not item.reason]


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, pack: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{pack}", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return stream.getvalue()


def special(name: str, kind: bytes, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def zstd(data: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as packed:
        packed.write(data)
    return bytes(stream.getvalue().to_pybytes())


# ---- units ----------------------------------------------------------------------------------------------------------


def test_units_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.xml", "b/1.nxml", "a.XML", "c.xml.gz", "z.tar.gz", "r.jsonl", "notes.txt", "b/x.filelist.csv", "d/e/3.xml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ONE)
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "folder.xml" / "inside.xml").write_bytes(TWO)
    units = units_of(3, parse(SourceSettings, {"input": str(tmp_path), "name": "mine"}), tmp_path)
    assert [(unit.kind, [file.relative_to(tmp_path).as_posix() for file in unit.files]) for unit in units] == [
        ("files", ["a.XML", "c.xml.gz", "b/1.nxml", "b/2.xml", "d/e/3.xml", "folder.xml/inside.xml"]),
        ("records", ["r.jsonl"]), ("archive", ["z.tar.gz"])]
    assert [unit.bytes for unit in units] == [5 * len(ONE) + len(TWO), len(ONE), len(ONE)]
    assert {(unit.source, unit.name, unit.root) for unit in units} == {(3, "mine", tmp_path)}
    only = units_of(0, parse(SourceSettings, {"input": str(tmp_path), "type": "records"}), tmp_path)
    assert [unit.kind for unit in only] == ["records"]
    with pytest.raises(UserError, match="nothing here that a source of type auto reads"):
        read(tmp_path / "notes.txt")


def test_many_files_are_several_units_and_large_ones_are_alone(tmp_path: Path) -> None:
    for number in range(FILES_A_UNIT + 3):
        (tmp_path / f"{number:04d}.xml").write_bytes(ONE)
    with (tmp_path / "0001.xml").open("wb") as file:
        file.truncate(20 << 20)
    units = units_of(0, parse(SourceSettings, {"input": str(tmp_path)}), tmp_path)
    assert [len(unit.files) for unit in units] == [1, FILES_A_UNIT, 2]
    assert units[0].files[0].name == "0001.xml"
    assert sum(unit.bytes for unit in units) == (FILES_A_UNIT + 2) * len(ONE) + (20 << 20)


def test_batches_hold_about_4_mb() -> None:
    items = [Item(str(number), bytes(1 << 20)) for number in range(9)] + [Item(f"r{number}", record={"text": "x" * (3 << 20)})
                                                                          for number in range(3)]
    assert [len(batch) for batch in batches(items)] == [4, 4, 2, 2]
    assert [len(batch) for batch in batches(Item(str(number)) for number in range(600))] == [256, 256, 88]


# ---- files ----------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "good.xml").write_bytes(ONE)
    (tmp_path / "linked.xml").symlink_to(tmp_path / "good.xml")  # hub folders are made of such links
    (tmp_path / "broken.xml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.xml").symlink_to(tmp_path / "loop.xml")
    (tmp_path / "broken.tar.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "broken.parquet").symlink_to(tmp_path / "nowhere")
    (tmp_path / "up.xml").symlink_to(tmp_path)  # a link to a folder: not followed, it could be endless
    os.mkfifo(tmp_path / "pipe.xml")
    (tmp_path / "cut.xml.gz").write_bytes(gzip.compress(ONE)[:-10])
    (tmp_path / "crc.xml.gz").write_bytes(gzip.compress(ONE)[:-8] + bytes(8))
    (tmp_path / "plain.xml.gz").write_bytes(TWO)
    (tmp_path / "empty.xml").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.xml")).write_bytes(THREE)
    items = read(tmp_path)
    assert reasons(items) == {"broken.xml": "unreadable", "loop.xml": "unreadable", "broken.tar.gz": "unreadable",
                              "broken.parquet": "unreadable", "pipe.xml": "unreadable", "cut.xml.gz": "truncated",
                              "crc.xml.gz": "damaged"}
    assert {item.name: item.data for item in items if not item.reason} == {
        "good.xml": ONE, "linked.xml": ONE, "plain.xml.gz": TWO, "empty.xml": b"", "caf\\xe9.xml": THREE}
    json.dumps([item.name for item in items]).encode()  # every name can be written


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    for name in ("1.xml", "2.xml", "3.tar", "4.jsonl", "5.arrow"):
        (tmp_path / name).write_bytes(ONE)
    units = units_of(0, parse(SourceSettings, {"input": str(tmp_path)}), tmp_path)
    for name in ("2.xml", "3.tar", "4.jsonl", "5.arrow"):
        (tmp_path / name).unlink()
    items = [item for unit in units for item in items_of(unit)]
    assert good(items) == [ONE]
    assert set(reasons(items).values()) == {"unreadable"}
    assert len(reasons(items)) == 4


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give up its rights for a while")
def test_files_without_permission() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "closed.xml").write_bytes(ONE)
        (folder / "closed.xml").chmod(0)
        (folder / "open.xml").write_bytes(TWO)
        (folder / "open.xml").chmod(0o644)
        (folder / "private").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"private: cannot be listed \(Permission denied\)"):
                read(folder)
            os.seteuid(0)
            (folder / "private").rmdir()
            os.seteuid(65534)
            items = read(folder)
        finally:
            os.seteuid(0)
        assert reasons(items) == {"closed.xml": "unreadable"}
        assert good(items) == [TWO]


def test_large_documents_are_not_read_whole(tmp_path: Path) -> None:
    """200 MB as a file, packed, in a tar, packed in a tar, in a zip, in an article set, as a line: refused in little memory."""
    large = tmp_path / "in"
    large.mkdir()
    with (large / "a.xml").open("wb") as file:
        file.write(b"<article>")
        file.truncate(200 << 20)
    block = os.urandom(1 << 19).hex().encode()  # so much noise packs by two: no bomb
    with gzip.open(large / "b.xml.gz", "wb", compresslevel=1) as packed:
        for _ in range(20):
            packed.write(block)
    with (large / "c.tar").open("wb") as file:
        info = tarfile.TarInfo("c.xml")
        info.size = 200 << 20
        file.write(info.tobuf())
        file.seek(info.size, 1)
        file.write(tar(("after.xml", ONE), ("packed.xml.gz", gzip.compress(block * 9, 1))))
    with zipfile.ZipFile(large / "d.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("d.xml", block * 9)
        archive.writestr("after.xml", ONE)
    with (large / "e.xml").open("wb") as file:
        file.write(b"<articles><article>")
        file.seek(150 << 20, 1)
        file.write(b"</article>" + ONE + b"</articles>")
    with (large / "f.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.seek(150 << 20, 1)
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    items = read(large, max_document_mb=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(items) == dict.fromkeys(
        ["a.xml", "b.xml.gz", "c.xml", "packed.xml.gz", "d.xml", "e.xml#1", "f.jsonl:1"], "too_large")
    assert [item.data or item.record for item in items if not item.reason] == [ONE, ONE, ONE, {"text": "after"}]
    assert all(item.detail == "over 1 MB" or "a line of over 1 MB" in item.detail for item in items if item.reason)
    assert peak < 30 << 20, peak  # the packed member of the tar has 5 MB, parts have 1 MB


# ---- file lists -----------------------------------------------------------------------------------------------------

LIST = """Article File,Article Citation,AccessionID,LastUpdated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted
PMC000xxxxxx/PMC2.xml,"Front Oncol. 2019, Dec 6; 9:1306",PMC2,"2024-02-07 23:35:31",31867269,"CC BY",no
PMC000xxxxxx/PMC1.xml,"A ""quoted"" one",PMC1,2023-01-01 00:00:00,,CC BY-NC,Yes
PMC000xxxxxx/PMC3.xml,x,PMC3,not a date,1,NO-CC CODE,no
"""


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_file_lists(tmp_path: Path, kind: str) -> None:
    name = "oa_comm_xml.PMC000xxxxxx.baseline.2023-12-18"
    members = [(f"PMC000xxxxxx/PMC{number}.xml", data) for number, data in ((1, ONE), (2, TWO), (3, THREE), (4, ONE))]
    (tmp_path / f"{name}.tar.gz").write_bytes(tar(*members, pack="gz"))
    text = LIST if kind == "csv" else "\n".join("\t".join(line) for line in [
        LIST.splitlines()[0].split(","), ["f", '"odd', "PMC2", "2024-02-07 23:35:31", "1", "CC BY", "no"],
        ["f", "x", "PMC1", "2023-01-01 00:00:00", "", "CC BY-NC", "yes"], ["f", "x", "PMC3", "", "", "", "no"]])
    (tmp_path / f"{name}.filelist.{kind}").write_text(text)
    items = read(tmp_path)
    assert [(item.data, item.reason, item.updated, item.statements) for item in items] == [
        (b"", "retracted", "2023-01-01 00:00:00", ("CC BY-NC",)), (TWO, "", "2024-02-07 23:35:31", ("CC BY",)),
        (THREE, "", "2023-12-18", ()), (ONE, "", "2023-12-18", ())]
    datetime.fromisoformat(items[0].updated)
    alone = read(tmp_path / f"{name}.tar.gz")  # the list is no part of this input, and its key would not change with it
    assert [item.reason for item in alone] == [""] * 4


def test_file_lists_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tar(("PMC1.xml", ONE), pack="gz"))
    for text in ("", "a,b\n1,2\n", "<html>", "AccessionID,x\nPMC1,2\n"):
        (tmp_path / "a.filelist.csv").write_text(text)
        with pytest.raises(UserError, match=r"a\.filelist\.csv: not a file list of PMC"):
            read(tmp_path)
    (tmp_path / "a.filelist.csv").write_text(LIST + "PMC9.xml,too,few\n,,nonsense,,,,\n")
    assert len(FileList(tmp_path / "a.filelist.csv")) == 3
    assert "1 lines do not have the columns" in caplog.text
    (tmp_path / "a.filelist.csv").write_text(LIST.splitlines()[0] + "\n")
    assert reasons(read(tmp_path)) == {}
    source = parse(SourceSettings, {"input": str(tmp_path)})
    units = units_of(0, source, tmp_path)
    (tmp_path / "a.filelist.csv").unlink()  # gone since: without it, what is retracted would pass
    items = [item for unit in units for item in items_of(unit)]
    assert reasons(items) == {"a.tar.gz": "unreadable"}


# ---- records --------------------------------------------------------------------------------------------------------

ROWS = [{"id": "1", "text": "one", "licence": "CC0-1.0"}, {"id": "2", "text": "zwei é"}]


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.json.gz", gzip.compress),
                                            ("a.jsonl.zst", zstd), ("a.json.zst", zstd)])
def test_json_lines(tmp_path: Path, name: str, pack: Any) -> None:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / name).write_bytes(pack(text.encode()))
    assert [item.record for item in read(tmp_path / name)] == ROWS
    (tmp_path / name).write_bytes(pack(text.encode() + b'\r\n\n[1]\nnot json\n{"id": 3}\n\xff\n'))
    items = read(tmp_path / name)
    assert len([item for item in items if item.record]) == 2
    assert reasons(items) == {f"{name}:{line}": "malformed" for line in (4, 5, 6, 7)}


def test_json_lines_that_end_early(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": str(number), "text": f"{number} " * 50}) + "\n" for number in range(5000)).encode()
    for name, data, reason in (("a.jsonl.gz", gzip.compress(lines)[:-5000], "truncated"),
                               ("b.jsonl.zst", zstd(lines)[:-5000], "damaged"), ("c.jsonl", b"", "empty")):
        (tmp_path / name).write_bytes(data)
        items = read(tmp_path / name)
        assert reasons(items)[name] == reason
        assert [item.record["id"] for item in items if item.record] == [str(number) for number in range(
            sum(item.record is not None for item in items))]
        assert len(items) > 2000 or not data


def test_fields(tmp_path: Path) -> None:
    meta = {"licence": "CC BY", "deep": {"lang": "fr"}}
    rows = [{"pmid": 7, "abstract": "one", "meta": meta, "text": "ignored", "vector": [1.0]},
            {"pmid": 8, "abstract": None, "meta": None, "text": "ignored", "vector": None}]
    fields = {"text": "abstract", "id": "pmid", "licence": "meta.licence", "language": "meta.deep.lang"}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        first, second = read(tmp_path / name, fields=fields)
        assert first.record is not None
        assert {key: first.record[key] for key in fields} == {"text": "one", "id": 7, "licence": "CC BY", "language": "fr"}
        assert second.reason == "malformed"
        assert "'fields'" in second.detail
    assert "vector" not in (read(tmp_path / "b.parquet", fields=fields)[0].record or {})  # columns nobody asks for stay unread
    with pytest.raises(UserError, match="fields"):
        parse(SourceSettings, {"input": "x", "fields": {"txt": "abstract"}})


def save_to_disk(folder: Path, tables: list[pa.Table]) -> None:
    """What ``datasets`` 2 to 4 write: data-*.arrow in the stream format, state.json, dataset_info.json."""
    folder.mkdir(parents=True)
    files = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(files, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({
        "_data_files": [{"filename": name} for name in files], "_fingerprint": "0", "_format_columns": None, "_format_kwargs": {},
        "_format_type": None, "_output_all_columns": False, "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string", "_type": "Value"}}}))


def test_saved_datasets(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"id": str(number), "text": f"text {number}"} for number in range(5)])
    save_to_disk(tmp_path / "set", [table.slice(0, 3), table.slice(3)])
    (tmp_path / "set" / "cache-1a2b.arrow").write_bytes((tmp_path / "set" / "data-00000-of-00002.arrow").read_bytes())
    assert [item.record for item in read(tmp_path / "set")] == table.to_pylist()
    save_to_disk(tmp_path / "splits" / "train", [table])
    save_to_disk(tmp_path / "splits" / "test", [table.slice(0, 1)])
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(read(tmp_path / "splits")) == 6
    assert len(read(tmp_path / "splits" / "train")) == 5
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert [item.record for item in read(tmp_path / "file.arrow")] == table.to_pylist()
    (tmp_path / "set" / "data-00001-of-00002.arrow").unlink()
    assert reasons(read(tmp_path / "set")) == {"data-00001-of-00002.arrow": "unreadable"}
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    for change, message in (({"_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
                            ({"_data_files": 3}, "not the state"),
                            ({"_data_files": [{"filename": "../../x.arrow"}]}, "outside its folder")):
        (tmp_path / "set" / "state.json").write_text(json.dumps(state | change))
        with pytest.raises(UserError, match=message):
            read(tmp_path / "set")


def test_a_hub_folder_of_parquet(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "README.md", ".gitattributes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"text": [name]}), tmp_path / name)
    assert [item.name for item in read(tmp_path)] == ["train-00000-of-00002.parquet:1", "train-00001-of-00002.parquet:1"]


def test_damaged_tables(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"text": "x" * 1000 + str(number)} for number in range(1000)])
    pq.write_table(table, tmp_path / "a.parquet", compression="none")
    data = (tmp_path / "a.parquet").read_bytes()
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    arrow = stream.getvalue()
    for name, damaged in (("a.parquet", data[:-100]), ("b.parquet", b""), ("c.parquet", b"PAR1 x"),
                          ("d.arrow", arrow[:len(arrow) // 2]), ("e.arrow", b"nonsense" * 10), ("f.arrow", b"")):
        (tmp_path / name).write_bytes(damaged)
        items = read(tmp_path / name)
        assert list(reasons(items)) == [name], name
        assert good(items) == [b""] * (len(items) - 1)
        assert (400 <= len(items) <= 600) is (name == "d.arrow")  # the batches before the cut
    offsets = pa.py_buffer(b"\0\0\0\0\4\0\0\0\x08\0\0\0")
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"caf\xe9good")])
    pq.write_table(pa.table({"text": bad}), tmp_path / "g.parquet")
    items = read(tmp_path / "g.parquet")
    assert [item.record for item in items if item.record] == [{"text": "good"}]
    assert reasons(items) == {"g.parquet:1": "malformed"}
