"""``corpus download`` against a local server that breaks off, lies, changes its files, and asks to wait."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from biomistral.cli import app
from biomistral.corpus.download.bulk_layout import choose, folder_url, packages_of, read_page
from biomistral.corpus.download.fetch import RECORD, Download, download, plan
from biomistral.corpus.download.transfer import Patience, Rate
from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources.units import items_of, units_of
from biomistral.errors import UserError
from biomistral.recipe import parse
from local_server import serving

BASE = "oa_comm_xml.PMC000xxxxxx.baseline.2023-12-18"
INCREMENT = "oa_comm_xml.incr.2024-01-05"
HEADER = "Article File,Article Citation,AccessionID,LastUpdated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted\n"


def package(*numbers: int, padding: int = 3000) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for number in numbers:
            data = f"<article>{number} {os.urandom(padding).hex()}</article>".encode()
            info = tarfile.TarInfo(f"PMC000xxxxxx/PMC{number}.xml")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``faults[name]`` holds what goes wrong with the next requests for a file, one each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Callable[[Any, bytes], None]]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.agents: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def names(self) -> list[str]:
        """The files that were asked for, in order."""
        return [name for name, _ in self.asked if name]

    def page(self) -> str:
        rows = [f'<a href="{name}">{name[:20]}..&gt;</a>  2023-12-18 05:12  {max(1, len(data) >> 10)}K  \n'
                for name, data in self.files.items()]
        return f'<html><h1>Index of /oa_bulk</h1><pre><a href="/oa_bulk/">Parent Directory</a>   -\n{"".join(rows)}</pre></html>'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        self.close_connection = True
        folder, _, name = self.path.rpartition("/")
        self.server.agents.add(self.headers["User-Agent"])
        self.server.asked.append((name, self.headers.get("Range")))
        faults = self.server.faults.get(name)
        data = self.server.files.get(name)
        if faults:
            faults.pop(0)(self, data or b"")
        elif not name and folder.endswith("/xml"):
            self.give(self.server.page().encode())
        elif data is None:
            self.send_error(404)
        else:
            self.good(data)

    def good(self, data: bytes, ranges: bool = True) -> None:
        """As a server ought to: a part where one is asked for and the file is still the same."""
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if ranges and asked and self.headers.get("If-Range", etag) == etag:
            start = int(asked[1])
            if start >= len(data):
                self.give(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
            else:
                self.give(data[start:], 206, {"ETag": etag, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        else:
            self.give(data, 200, {"ETag": etag})

    def give(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None, length: int | None = None,
             cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data) if length is None else length)} | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if cut is None else data[:cut])


def cut(size: int) -> Callable[[Handler, bytes], None]:
    """Break off after so many bytes."""
    def fault(handler: Handler, data: bytes) -> None:
        whole = handler.give
        handler.give = lambda *args, **more: whole(*args, **more, cut=size)  # type: ignore[method-assign]
        handler.good(data)
    return fault


def status(code: int, **headers: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, data: handler.give(b"no", code, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    with serving(running):
        running.files = {f"{BASE}.tar.gz": package(1, 2), f"{BASE}.filelist.csv": HEADER.encode(),
                         f"{INCREMENT}.tar.gz": package(3), f"{INCREMENT}.filelist.csv": HEADER.encode()}
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def wanted(server: Server, tmp_path: Path, waits: list[float]) -> Download:
    return Download("oa_comm", tmp_path / "packages", server.url + "/oa_bulk", packages="baseline",
                    patience=Patience(timeout=5, attempts=3, sleep=waits.append))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (RECORD, ".lock")}


def test_everything_arrives_and_is_not_fetched_again(server: Server, wanted: Download) -> None:
    wanted = dataclasses.replace(wanted, packages="all")
    assert [row["state"] for row in plan(wanted)] == ["to fetch"] * 4
    done = download(wanted)
    assert content(wanted.out) == server.files
    assert (done["packages"], done["fetched"]) == (2, 4)
    assert done["bytes"] == sum(map(len, server.files.values()))
    assert server.names()[:2] == [f"{BASE}.filelist.csv", f"{BASE}.tar.gz"]  # the list of what is retracted comes first
    assert all(agent.startswith("biomistral/") for agent in server.agents)
    record = json.loads((wanted.out / RECORD).read_text())
    for name, data in server.files.items():
        assert record[name]["url"] == f"{server.url}/oa_bulk/oa_comm/xml/{name}"
        assert (record[name]["bytes"], record[name]["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert record[name]["verified"] == ("gzip" if name.endswith(".gz") else "size")
    before, asked = (wanted.out / RECORD).read_bytes(), len(server.names())
    assert download(wanted)["fetched"] == 0
    assert [row["state"] for row in plan(wanted)] == ["there"] * 4
    assert (len(server.names()), (wanted.out / RECORD).read_bytes()) == (asked, before)
    (wanted.out / f"{BASE}.tar.gz").write_bytes(b"overwritten")
    assert download(wanted)["fetched"] == 1
    assert content(wanted.out) == server.files


def test_the_folder_is_a_source(server: Server, wanted: Download) -> None:
    row = 'PMC000xxxxxx/PMC2.xml,"A, B. 2019",PMC2,2024-02-07 23:35:31,1,CC BY,yes\n'
    server.files[f"{BASE}.filelist.csv"] = (HEADER + row).encode()
    download(dataclasses.replace(wanted, packages="all"))
    units = units_of(0, parse(SourceSettings, {"input": str(wanted.out)}), wanted.out)
    items = [item for unit in units for item in items_of(unit)]
    assert [(item.name[-8:], item.reason, item.updated[:10]) for item in items] == [
        ("PMC1.xml", "", "2023-12-18"), ("PMC2.xml", "retracted", "2024-02-07"), ("PMC3.xml", "", "2024-01-05")]


def test_a_connection_that_drops_is_resumed(server: Server, wanted: Download, waits: list[float]) -> None:
    name, data = f"{BASE}.tar.gz", server.files[f"{BASE}.tar.gz"]
    server.faults[name] = [cut(1000), cut(2000), cut(0)]
    download(wanted)
    assert content(wanted.out)[name] == data
    assert [asked for file, asked in server.asked if file == name] == [None, "bytes=1000-", "bytes=3000-", "bytes=3000-"]
    assert len(waits) == 3
    assert all(0.4 < wait < 2.1 for wait in waits)  # a request that brought something begins the waits anew


def test_a_second_run_goes_on_where_the_first_was_cut_off(server: Server, wanted: Download) -> None:
    name, data = f"{BASE}.tar.gz", server.files[f"{BASE}.tar.gz"]
    server.faults[name] = [cut(1000), status(503), status(503), status(503), status(503)]
    with pytest.raises(UserError, match=r"HTTP 503 .*, 3 times in a row"):
        download(wanted)
    assert (wanted.out / f"{name}.partial").read_bytes() == data[:1000]
    server.faults.clear()
    download(wanted)
    assert server.asked[-1] == (name, "bytes=1000-")
    assert content(wanted.out)[name] == data
    assert sorted(path.name for path in wanted.out.iterdir()) == [".lock", RECORD, f"{BASE}.filelist.csv", name]


def test_it_waits_as_long_as_the_server_asks(server: Server, wanted: Download, waits: list[float]) -> None:
    later = formatdate(time.time() + 100, usegmt=True)
    server.faults[f"{BASE}.tar.gz"] = [status(429, Retry_After="30"), status(503, Retry_After=later),
                                       status(503, Retry_After="86400")]
    download(wanted)
    assert [round(wait, -1) for wait in waits] == [30, 100, 600]


def test_waits_double(server: Server, wanted: Download, waits: list[float]) -> None:
    server.faults[f"{BASE}.tar.gz"] = [status(500)] * 7
    download(dataclasses.replace(wanted, patience=dataclasses.replace(wanted.patience, attempts=8, most_wait=20)))
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, [1, 2, 4, 8, 16, 20, 20], strict=True))


@pytest.mark.parametrize("changed", ["etag says so", "server ignores If-Range", "server ignores Range"])
def test_a_file_that_changes_between_two_parts_begins_anew(server: Server, wanted: Download, changed: str) -> None:
    name, new = f"{BASE}.tar.gz", package(7, 8, 9)

    def change(handler: Handler, data: bytes) -> None:
        server.files[name] = new
        if changed == "server ignores If-Range":
            handler.give(new[1000:], 206, {"ETag": '"new"', "Content-Range": f"bytes 1000-{len(new) - 1}/{len(new)}"})
        else:
            handler.good(new, ranges=changed == "etag says so")

    server.faults[name] = [cut(1000), change]
    download(wanted)
    assert content(wanted.out)[name] == new


def test_a_length_that_is_too_long_is_a_lie(server: Server, wanted: Download, waits: list[float]) -> None:
    name, data = f"{BASE}.filelist.csv", server.files[f"{BASE}.filelist.csv"]
    server.faults[name] = [lambda handler, data: handler.give(data, length=len(data) + 50)] * 4
    with pytest.raises(UserError, match="the connection ended early, 3 times in a row"):
        download(wanted)
    assert f"{BASE}.tar.gz" not in content(wanted.out)
    server.faults[name] = [lambda handler, data: handler.give(data, length=len(data) + 50, headers={"ETag": '"x"'}),
                           lambda handler, data: handler.give(b"", 416, {"Content-Range": f"bytes */{len(data)}"})]
    download(wanted)  # asked for the rest, the server says that there is none
    assert content(wanted.out)[name] == data


def test_a_length_that_is_too_short_is_found_by_gzip(server: Server, wanted: Download) -> None:
    name = f"{BASE}.tar.gz"
    server.faults[name] = [lambda handler, data: handler.give(data, length=len(data) - 50)]
    download(wanted)
    assert content(wanted.out)[name] == server.files[name]
    assert server.names().count(name) == 2


@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "a web page", "trailing bytes"])
def test_corrupt_gzip_is_fetched_once_more_then_refused(server: Server, wanted: Download, how: str) -> None:
    wanted = dataclasses.replace(wanted, packages="all")
    name, data = f"{BASE}.tar.gz", server.files[f"{BASE}.tar.gz"]
    bad = {"a flipped bit": data[:2000] + bytes([data[2000] ^ 4]) + data[2001:], "cut off": data[:-9],
           "a web page": b"<html>please log in</html>", "trailing bytes": data + b"<html>"}[how]
    server.files[name] = bad
    with pytest.raises(UserError, match=rf"1 of 4 files could not be had, the first: .*{name}: what the server sends is damaged"):
        download(wanted)
    assert server.names().count(name) == 2
    assert set(content(wanted.out)) == set(server.files) - {name}  # the other packages came
    server.files[name] = data
    assert download(wanted)["fetched"] == 1


def test_a_checksum_of_the_server_is_used(server: Server, wanted: Download) -> None:
    name = f"{BASE}.tar.gz"
    server.files[f"{name}.md5"] = f"{hashlib.md5(server.files[name]).hexdigest()}  {name}\n".encode()
    download(wanted)
    assert json.loads((wanted.out / RECORD).read_text())[name]["verified"] == "md5, gzip"
    server.files[f"{name}.md5"] = f"MD5({name})= {'0' * 32}\n".encode()
    with pytest.raises(UserError, match="its MD5 is not 0000"):
        download(dataclasses.replace(wanted, out=wanted.out / "other"))


def test_chunked_without_a_length(server: Server, wanted: Download) -> None:
    def chunked(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(data), 1000):
            part = data[start:start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if len(faults) == 1 and start == 1000:
                return  # the first time, it breaks off
        handler.wfile.write(b"0\r\n\r\n")

    faults = server.faults[f"{BASE}.tar.gz"] = [chunked, chunked]
    download(wanted)
    assert content(wanted.out)[f"{BASE}.tar.gz"] == server.files[f"{BASE}.tar.gz"]


def test_redirects(server: Server, wanted: Download) -> None:
    server.files["elsewhere"] = server.files[f"{BASE}.tar.gz"]
    server.faults[f"{BASE}.tar.gz"] = [status(302, Location="elsewhere")]
    download(wanted)
    assert content(wanted.out)[f"{BASE}.tar.gz"] == server.files["elsewhere"]
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        server.faults[f"{BASE}.tar.gz"] = [status(302, Location=target)]
        with pytest.raises(UserError, match=r"redirects to|HTTP 302"):
            download(dataclasses.replace(wanted, out=wanted.out / target[:3]))


def test_what_is_not_there(server: Server, wanted: Download) -> None:
    for code in (404, 403, 410):
        server.faults[f"{BASE}.tar.gz"] = [status(code)]
        with pytest.raises(UserError, match=rf"1 of 2 files could not be had, the first: .*HTTP {code}"):
            download(dataclasses.replace(wanted, out=wanted.out / str(code)))
    server.faults[""] = [status(404)]
    with pytest.raises(UserError, match=r"/oa_bulk/oa_comm/xml/: HTTP 404 .*; check --url"):
        download(wanted)
    server.files.clear()
    with pytest.raises(UserError, match="no package of oa_comm is wanted of the 0 baseline and 0 incremental ones there"):
        download(wanted)


def test_no_server(wanted: Download, waits: list[float]) -> None:
    with pytest.raises(UserError, match=r"refused, 3 times in a row; try later, or give another --url"):
        download(dataclasses.replace(wanted, url="http://127.0.0.1:1/oa_bulk"))
    assert len(waits) == 3


def test_a_silent_server_times_out(server: Server, wanted: Download) -> None:
    server.faults[""] = [lambda handler, data: time.sleep(0.6)]
    download(dataclasses.replace(wanted, patience=dataclasses.replace(wanted.patience, timeout=0.2)))
    assert json.loads((wanted.out / "downloads.json").read_text(encoding="utf-8"))  # tried again, and then it answered


@pytest.mark.parametrize(("change", "message"), [
    ({"url": "ftp://x/y"}, "begins with https"), ({"since": "last week"}, "--since last week: a day as YYYY-MM-DD"),
    ({"since": "2024-01-06", "packages": "incremental"}, "the latest of 2024-01-05"),
    ({"subset": "europe_pmc", "since": "2024-01-01"}, "no incremental packages")])
def test_bad_wishes(server: Server, wanted: Download, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        download(dataclasses.replace(wanted, **change))


def test_offline_nothing_is_asked_for(server: Server, wanted: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for function in (plan, download):
        with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*fetch the packages of http.* and put them into"):
            function(wanted)
    assert server.asked == []


def test_no_room(server: Server, wanted: Download) -> None:
    server.page = lambda: f'<a href="{BASE}.tar.gz">x</a> 2023-12-18 05:12 90000T'  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"GB are to come and .* GB are free there"):
        download(wanted)
    assert server.names() == []


def test_the_true_size_needs_room_too(server: Server, wanted: Download) -> None:
    server.faults[f"{BASE}.tar.gz"] = [lambda handler, data: handler.give(data, length=1 << 60)]
    with pytest.raises(UserError, match="GB are to come"):
        download(wanted)


def test_a_damaged_record_is_said(server: Server, wanted: Download) -> None:
    wanted.out.mkdir()
    for text in ("{", "[]", '{"a": 1}', "\xff"):
        (wanted.out / RECORD).write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"downloads\.json: not .*remove it"):
            download(wanted)


def test_one_download_at_a_time(server: Server, wanted: Download) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(handler: Handler, data: bytes) -> None:
        started.set()
        go_on.wait(10)
        handler.good(data)

    server.faults[f"{BASE}.tar.gz"] = [slow]
    first = threading.Thread(target=download, args=(wanted,))
    first.start()
    assert started.wait(10)
    with pytest.raises(UserError, match="another download is at work there"):
        download(wanted)
    go_on.set()
    first.join()
    assert content(wanted.out)[f"{BASE}.tar.gz"] == server.files[f"{BASE}.tar.gz"]


def test_interrupted_and_run_again(server: Server, wanted: Download) -> None:
    """Ctrl-C in the middle of a file, through the command: exit code 130, the partial file is kept and used."""
    name = f"{BASE}.tar.gz"
    halfway, over = threading.Event(), threading.Event()

    def stall(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        handler.end_headers()
        handler.wfile.write(data[:5000])
        handler.wfile.flush()
        halfway.set()
        over.wait(20)

    server.faults[name] = [stall]
    command = [sys.executable, "-m", "biomistral.cli", "corpus", "download", "--url", wanted.url or "", "--out", str(wanted.out),
               "--subset", "oa_comm", "--packages", "baseline"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert halfway.wait(30)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    over.set()
    assert process.returncode == 130, said
    kept = (wanted.out / f"{name}.partial").stat().st_size
    download(wanted)
    assert content(wanted.out)[name] == server.files[name]
    assert server.asked[-1] == (name, f"bytes={kept}-" if kept else None)


def test_killed_between_the_record_and_the_rename(server: Server, wanted: Download) -> None:
    name = f"{BASE}.tar.gz"
    download(wanted)
    entry = json.loads((wanted.out / RECORD).read_text())[name]
    (wanted.out / name).rename(wanted.out / f"{name}.partial")
    (wanted.out / f"{name}.partial.json").write_text(json.dumps(
        {"url": entry["url"], "size": entry["bytes"], "etag": entry["etag"], "last_modified": ""}))
    asked = server.names().count(name)
    download(wanted)
    assert content(wanted.out) == {file: server.files[file] for file in (name, f"{BASE}.filelist.csv")}
    assert server.names().count(name) == asked  # it was all there


def test_a_package_that_is_issued_anew_is_fetched_anew(server: Server, wanted: Download) -> None:
    download(wanted)
    server.files[f"{BASE}.tar.gz"] = package(*range(9))
    assert download(wanted)["fetched"] == 1
    assert content(wanted.out)[f"{BASE}.tar.gz"] == server.files[f"{BASE}.tar.gz"]


def test_europe_pmc(server: Server, wanted: Download) -> None:
    names = ["PMC13900_PMC17829.xml.gz", "PMC1240684_PMC1474480.xml.gz"]
    server.files = {names[1]: gzip.compress(b"<articles><article/></articles>"), names[0]: gzip.compress(b"<articles/>"),
                    "README.txt": b"x", "../../evil_PMC1.xml.gz": b"x"}
    wanted = dataclasses.replace(wanted, subset="europe_pmc", url=server.url + "/ftp/xml", packages="all")
    download(wanted)
    assert server.names() == names
    assert set(content(wanted.out)) == set(names)


def test_rate(server: Server) -> None:
    now, slept = 1.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    rate = Rate(1e6, sleep, lambda: now)
    for _ in range(20):
        rate.took(500_000)
    assert slept == pytest.approx(9)  # 10 MB, of which the first second's are free
    now += 100  # of a stall no more than a second is caught up
    rate.took(3_000_000)
    assert slept == pytest.approx(9 + 2)


@pytest.mark.parametrize("page", [
    '<a href="NAME">NAME</a>                2023-12-18 05:12  1.5G  \n',
    '<a href="NAME">NAME</a>   18-Dec-2023 05:12   1610612736\n',
    '<tr><td><a href="./NAME">NAME</a></td><td align="right">2023-12-18 05:12  </td><td>1.5G</td><td>&nbsp;</td></tr>'])
def test_directory_pages_of_servers(page: str) -> None:
    """Apache's plain and table pages, and nginx'."""
    name = f"{BASE}.tar.gz"
    files = read_page('<a href="?C=N;O=D">Name</a> <a href="/pub/">Parent</a>\n' + page.replace("NAME", name)
                      + '<a href="sub/">sub/</a> <a href="https://evil.example/x.tar.gz">x</a>')
    assert set(files) == {name}
    assert files[name].size == 1610612736
    assert files[name].date in ("2023-12-18 05:12", "18-Dec-2023 05:12")


def test_choice_of_packages() -> None:
    names = ["oa_comm_xml.PMC001xxxxxx.baseline.2023-12-18.tar.gz", "oa_comm_xml.PMC000xxxxxx.baseline.2023-06-17.tar.gz",
             "oa_comm_xml.PMC000xxxxxx.baseline.2023-12-18.tar.gz", "oa_comm_xml.PMC000xxxxxx.baseline.2023-12-18.filelist.txt",
             "oa_comm_xml.incr.2024-01-02.tar.gz", "oa_comm_xml.incr.2023-12-19.tar.gz",
             "oa_comm_xml.incr.2023-12-19.filelist.csv", "oa_other_xml.incr.2024-01-02.tar.gz",
             "oa_comm_xml.incr.2024-01-02.tar.gz.exe", "oa_comm_txt.incr.2024-01-02.tar.gz"]
    packages = packages_of(read_page("".join(f'<a href="{name}">x</a> 2023-12-18 05:12 1K\n' for name in names)), "oa_comm")
    assert [package.file.name for package in packages] == [names[2], names[0], names[5], names[4]]
    assert [package.filelist.name if package.filelist else None for package in packages] == [names[3], None, names[6], None]
    assert [package.date for package in choose(packages, "2024-01-01", "all")] == ["2023-12-18", "2023-12-18", "2024-01-02"]
    assert [package.date for package in choose(packages, "2024-01-01", "incremental")] == ["2024-01-02"]
    assert [package.kind for package in choose(packages, None, "baseline")] == ["baseline"] * 2
    assert folder_url("https://mirror.example/oa_bulk/", "oa_other") == "https://mirror.example/oa_bulk/oa_other/xml/"
    assert folder_url("https://mirror.example/pmc/xml/", "oa_other") == "https://mirror.example/pmc/xml/"
    assert folder_url(None, "oa_comm") == "https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_bulk/oa_comm/xml/"


def test_the_commands_of_the_guide(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parent.parent / "docs" / "guide" / "download.md").read_text(encoding="utf-8")
    commands = re.findall(r"^biomistral (corpus download --subset .*)$", guide, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        words = shlex.split(command.replace("https://mirror.example", server.url))
        app(words, standalone_mode=False)
    assert f"{BASE}.tar.gz" in capsys.readouterr().out
    assert set(content(tmp_path / "packages")) == set(server.files)
