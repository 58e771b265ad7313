"""``corpus download --subset cloud`` against a local bucket that breaks off, asks to wait, loses objects and damages them."""

import csv
import dataclasses
import errno
import gzip
import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from typer.testing import CliRunner

from biomistral.cli import app
from biomistral.corpus.download import cloud, cloud_packages
from biomistral.corpus.download.cloud import CloudDownload, download, plan
from biomistral.corpus.download.cloud_layout import VERSIONS, _newest
from biomistral.corpus.download.transfer import Patience
from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources.units import items_of, units_of
from biomistral.errors import UserError
from biomistral.recipe import parse
from local_server import serving

REPORTS = "inventory-reports/pmc-oa-opendata/metadata/"
DAY = "2026-01-18T01-00Z"
Fault = Callable[["Handler", bytes], None]


class Bucket(ThreadingHTTPServer):
    """Serves ``objects``; ``faults[key]`` holds what goes wrong with the next requests for an object, one each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.dates: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, text: str = "", date: str = "2026-01-08T11:47:59.000Z", **facts: Any) -> None:
        xml = f"<article>{name} {text}</article>".encode()
        pmcid, _, version = name.partition(".")
        known = {"pmcid": pmcid, "version": int(version), "pmid": 7, "citation": 'J Test. 2026, "1":\n2',
                 "is_pmc_openaccess": True, "is_manuscript": False, "is_retracted": False, "license_code": "CC BY",
                 "xml_url": f"s3://pmc-oa-opendata/{name}/{name}.xml?md5={hashlib.md5(xml).hexdigest()}"} | facts
        self.objects[f"{name}/{name}.xml"] = xml
        self.objects[f"metadata/{name}.json"] = json.dumps(known).encode()
        self.dates[f"metadata/{name}.json"] = date

    def take_stock(self, day: str = DAY, shards: int = 2) -> None:
        """Write an inventory as S3 does, its rows in no order."""
        rows = [f'"pmc-oa-opendata","{key}","{date}","{hashlib.md5(self.objects[key]).hexdigest()}"\n'
                for key, date in sorted(self.dates.items(), reverse=True)]
        rows.append('"pmc-oa-opendata","metadata/notes.txt","2026-01-08T11:47:59.000Z","0"\n')
        files = []
        for number in range(shards):
            key, data = f"{REPORTS}data/{day}-{number}.csv.gz", gzip.compress("".join(rows[number::shards]).encode())
            self.objects[key] = data
            files.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
        self.objects[f"{REPORTS}{day}/manifest.json"] = json.dumps(
            {"sourceBucket": "pmc-oa-opendata", "fileFormat": "CSV", "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
             "files": files}).encode()

    def listing(self, prefix: str) -> bytes:
        folders = {key[:key.index("/", len(prefix)) + 1] for key in self.objects
                   if key.startswith(prefix) and "/" in key[len(prefix):]}
        found = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders))
        return f'<?xml version="1.0"?><ListBucketResult><Prefix>{prefix}</Prefix>{found}</ListBucketResult>'.encode()

    def articles_asked(self) -> list[str]:
        return sorted(key for key in self.asked if key.startswith(("PMC", "metadata/")))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        self.close_connection = True
        parts = urlsplit(self.path)
        key = parts.path[1:]
        self.server.asked.append(key)
        if not key:
            self.give(self.server.listing(parse_qs(parts.query)["prefix"][0]))
        elif faults := self.server.faults.get(key):
            faults.pop(0)(self, self.server.objects.get(key, b""))
        elif key in self.server.objects:
            self.give(self.server.objects[key])
        else:
            self.give(b"<Error><Code>NoSuchKey</Code></Error>", 404)

    def give(self, data: bytes, status: int = 200, etag: str | None = None, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(data).hexdigest() if etag is None else etag}"')
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[:cut])


def dropped(handler: Handler, data: bytes) -> None:
    handler.give(data, cut=len(data) // 2)


def slow_down(handler: Handler, data: bytes) -> None:
    handler.give(b"<Error><Code>SlowDown</Code></Error>", 503, Retry_After="7")


def damaged(handler: Handler, data: bytes) -> None:
    handler.give(data[:-1] + b"?", etag=hashlib.md5(data).hexdigest())


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    running = Bucket()
    with serving(running):
        for name in ("PMC13901.1", "PMC13901.2", "PMC20.1", "PMC3.1", "PMC10000002.1", "PMC10000003.1"):
            running.put(name)
        running.take_stock()
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def wanted(bucket: Bucket, tmp_path: Path, waits: list[float]) -> CloudDownload:
    return CloudDownload(tmp_path / "packages", bucket.url + "/", connections=4,
                         patience=Patience(timeout=5, attempts=3, sleep=waits.append))


def packed(folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = tar.getnames()
    return found


def read(folder: Path) -> list[tuple[str, str, str]]:
    """What ``corpus build`` reads: text, refusal, date."""
    units = units_of(0, parse(SourceSettings, {"input": str(folder)}), folder)
    return [(item.data.decode(), item.reason, item.updated) for unit in units for item in items_of(unit)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_newest_versions_arrive_once_as_packages_with_their_lists(bucket: Bucket, wanted: CloudDownload) -> None:
    done = download(wanted)
    assert packed(wanted.out) == {
        "cloud.PMC000xxxxxx.001.tar": [f"PMC000xxxxxx/{name}.xml" for name in ("PMC3.1", "PMC20.1", "PMC13901.2")],
        "cloud.PMC010xxxxxx.001.tar": [f"PMC010xxxxxx/PMC1000000{n}.1.xml" for n in (2, 3)]}
    assert (done["articles"], done["packages"], done["refused"], done["asked"], done["inventory"]) == (5, 2, 0, 5, DAY)
    with tarfile.open(wanted.out / "cloud.PMC000xxxxxx.001.tar") as tar:
        member = tar.extractfile("PMC000xxxxxx/PMC13901.2.xml")
        assert member is not None
        assert member.read() == bucket.objects["PMC13901.2/PMC13901.2.xml"]
    assert rows(wanted.out / "cloud.PMC000xxxxxx.001.filelist.csv")[2] == {
        "Article File": "PMC000xxxxxx/PMC13901.2.xml", "Article Citation": 'J Test. 2026, "1": 2', "AccessionID": "PMC13901",
        "LastUpdated (YYYY-MM-DD HH:MM:SS)": "2026-01-08 11:47:59", "PMID": "7", "License": "CC BY", "Retracted": "no"}
    record = json.loads((wanted.out / "downloads.json").read_text())
    for name, entry in record.items():
        assert entry["sha256"] == hashlib.sha256((wanted.out / name).read_bytes()).hexdigest()
    assert (len(record), record["cloud.PMC000xxxxxx.001.tar"]["articles"]) == (2, 3)
    before, files = bucket.articles_asked(), {path: path.read_bytes() for path in wanted.out.iterdir()}
    assert len(before) == 10  # metadata and XML, each once
    assert download(wanted)["asked"] == 0
    assert (bucket.articles_asked(), {path: path.read_bytes() for path in wanted.out.iterdir()}) == (before, files)
    assert all(".partial" not in path.name for path in files)


def test_two_folders_are_the_same_bytes_whatever_the_connections(wanted: CloudDownload, tmp_path: Path) -> None:
    other = dataclasses.replace(wanted, out=tmp_path / "other", connections=1)
    download(wanted)
    download(other)
    assert {path.name: path.read_bytes() for path in wanted.out.iterdir()} == {
        path.name: path.read_bytes() for path in other.out.iterdir()}


def test_a_second_run_fetches_what_is_newer_and_withdraws_what_was_retracted(bucket: Bucket, wanted: CloudDownload) -> None:
    download(wanted)
    bucket.asked.clear()
    later = "2026-02-01T00:00:00.000Z"
    bucket.put("PMC20.1", "corrected", later)
    bucket.put("PMC3.1", date=later, is_retracted=True)
    bucket.put("PMC4.1", date=later)
    for name in ("metadata/PMC10000003.1.json", "PMC10000003.1/PMC10000003.1.xml"):
        del bucket.objects[name]
        bucket.dates.pop(name, None)
    bucket.take_stock("2026-02-02T01-00Z")
    done = download(wanted)
    assert packed(wanted.out)["cloud.PMC000xxxxxx.002.tar"] == [f"PMC000xxxxxx/PMC{n}.1.xml" for n in (3, 4, 20)]
    assert (done["articles"], done["gone"], len(bucket.articles_asked())) == (3, 1, 6)
    found = read(wanted.out)
    assert [reason for _, reason, _ in found] == ["retracted", "", "", "retracted", "", "", "", ""]
    assert ("<article>PMC20.1 corrected</article>", "", "2026-02-01 00:00:00") in found  # the later of two is the newer
    assert ("<article>PMC20.1 </article>", "", "2026-01-08 11:47:59") in found
    assert download(wanted)["asked"] == 0


def test_drops_and_slow_down_are_waited_for(bucket: Bucket, wanted: CloudDownload, waits: list[float]) -> None:
    bucket.faults = {"PMC3.1/PMC3.1.xml": [dropped, slow_down], "metadata/PMC20.1.json": [slow_down],
                     f"{REPORTS}data/{DAY}-0.csv.gz": [dropped]}
    assert download(wanted)["articles"] == 5
    assert len(waits) == 4
    assert sum(wait >= 7 for wait in waits) == 2


def test_what_is_damaged_once_is_fetched_again_and_twice_is_refused(bucket: Bucket, wanted: CloudDownload) -> None:
    bucket.faults = {"PMC3.1/PMC3.1.xml": [damaged], "metadata/PMC20.1.json": [damaged, damaged],
                     "PMC13901.2/PMC13901.2.xml": [damaged, damaged]}
    del bucket.objects["PMC10000002.1/PMC10000002.1.xml"]
    done = download(wanted)
    assert (done["articles"], done["refused"]) == (2, 3)
    refused = {row["article"]: row["reason"] for row in rows(wanted.out / "cloud.refused.csv")}
    assert sorted(refused) == ["PMC10000002.1", "PMC13901.2", "PMC20.1"]
    assert "HTTP 404" in refused["PMC10000002.1"]
    assert "the metadata's MD5 is" in refused["PMC20.1"]
    assert download(wanted)["articles"] == 2  # asked for again: two are sound now
    assert [row["article"] for row in rows(wanted.out / "cloud.refused.csv")] == ["PMC10000002.1"]
    assert {name: len(members) for name, members in packed(wanted.out).items()} == {
        "cloud.PMC000xxxxxx.001.tar": 1, "cloud.PMC000xxxxxx.002.tar": 2, "cloud.PMC010xxxxxx.001.tar": 1}


def test_an_inventory_that_is_damaged_twice_or_says_nothing_is_refused(bucket: Bucket, wanted: CloudDownload) -> None:
    key = f"{REPORTS}data/{DAY}-0.csv.gz"
    bucket.faults = {key: [lambda handler, data: handler.give(b"x" * len(data))] * 2}
    with pytest.raises(UserError, match=r"its MD5 is .*check --url"):
        download(wanted)
    bucket.objects[f"{REPORTS}{DAY}/manifest.json"] = json.dumps({"files": []}).encode()
    with pytest.raises(UserError, match="no key like metadata/PMC13901"):
        download(wanted)
    bucket.objects[f"{REPORTS}{DAY}/manifest.json"] = b"{}"
    with pytest.raises(UserError, match="not an inventory"):
        download(wanted)
    bucket.objects.clear()
    with pytest.raises(UserError, match="no inventory there"):
        download(wanted)


def test_an_inventory_that_is_being_written_is_passed_over(bucket: Bucket, wanted: CloudDownload) -> None:
    bucket.objects[f"{REPORTS}2026-01-19T01-00Z/manifest.checksum"] = b""
    assert download(wanted)["inventory"] == DAY


def test_articles_that_are_not_open_access_are_left_out_and_not_asked_for_again(bucket: Bucket, wanted: CloudDownload) -> None:
    for name in ("PMC10000002.1", "PMC10000003.1", "PMC3.1"):
        bucket.put(name, is_pmc_openaccess=False, license_code="TDM")
    bucket.take_stock()
    done = download(wanted)
    assert (done["articles"], done["left_out"]) == (2, 3)
    assert list(packed(wanted.out)) == ["cloud.PMC000xxxxxx.001.tar"]
    assert not any(key.endswith("PMC3.1.xml") for key in bucket.asked)
    assert download(wanted)["asked"] == 0


def test_without_metadata_an_article_is_one_request(bucket: Bucket, wanted: CloudDownload) -> None:
    bucket.faults = {"PMC3.1/PMC3.1.xml": [damaged]}
    download(dataclasses.replace(wanted, metadata=False))
    assert not any(key.startswith("metadata/") for key in bucket.asked)
    assert Counter(bucket.asked)["PMC3.1/PMC3.1.xml"] == 2
    assert [date for *_, date in read(wanted.out)] == ["2026-01-08 11:47:59"] * 5
    assert {(row["License"], row["Retracted"]) for row in rows(wanted.out / "cloud.PMC000xxxxxx.001.filelist.csv")} == {("", "")}


def test_the_bucket_may_be_ahead_of_its_inventory(bucket: Bucket, wanted: CloudDownload) -> None:
    bucket.put("PMC3.1", "newer than the inventory")
    assert download(wanted)["articles"] == 5
    bucket.take_stock("2026-01-19T01-00Z")
    assert download(wanted)["asked"] == 0


def test_since_and_limit_choose_and_a_plan_tells(bucket: Bucket, wanted: CloudDownload) -> None:
    bucket.put("PMC20.1", date="2026-01-09T00:00:00.000Z")
    bucket.take_stock()
    since = dataclasses.replace(wanted, since="2026-01-09")
    told = plan(since)
    assert (told["articles"], told["there"], told["bytes"]) == (1, 5, len(bucket.objects["PMC20.1/PMC20.1.xml"]))
    assert not wanted.out.exists()
    download(since)
    assert packed(wanted.out) == {"cloud.PMC000xxxxxx.001.tar": ["PMC000xxxxxx/PMC20.1.xml"]}
    assert download(dataclasses.replace(wanted, limit=1))["articles"] == 1
    assert packed(wanted.out)["cloud.PMC000xxxxxx.002.tar"] == ["PMC000xxxxxx/PMC3.1.xml"]
    assert plan(wanted)["articles"] == 3


def test_packages_end_at_a_size_and_a_run_that_fails_goes_on_at_the_package(
        bucket: Bucket, wanted: CloudDownload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cloud_packages, "MOST_ARTICLES", 2)
    whole = dataclasses.replace(wanted, out=tmp_path / "whole")
    download(whole)
    bucket.asked.clear()
    bucket.faults = {"PMC13901.2/PMC13901.2.xml": [slow_down] * 4}
    with pytest.raises(UserError, match=r"HTTP 503 .*, 3 times in a row"):
        download(dataclasses.replace(wanted, connections=1))
    assert packed(wanted.out) == {"cloud.PMC000xxxxxx.001.tar": [f"PMC000xxxxxx/PMC{n}.1.xml" for n in (3, 20)]}
    bucket.asked.clear()
    assert download(wanted)["articles"] == 3
    assert len(bucket.articles_asked()) == 6
    assert {path.name: path.read_bytes() for path in wanted.out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.out.iterdir()}


def test_killed_and_run_again_the_folder_is_that_of_a_run_never_stopped(bucket: Bucket, wanted: CloudDownload,
                                                                        tmp_path: Path) -> None:
    whole = dataclasses.replace(wanted, out=tmp_path / "whole")
    download(whole)
    reached, over = threading.Event(), threading.Event()

    def stall(handler: Handler, data: bytes) -> None:
        reached.set()
        over.wait(20)

    bucket.faults = {"PMC10000003.1/PMC10000003.1.xml": [stall]}
    process = subprocess.Popen([sys.executable, "-m", "biomistral.cli", "corpus", "download", "--url", bucket.url, "--out",
                                str(wanted.out), "--connections", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert reached.wait(60)
    deadline = time.monotonic() + 20
    while not (wanted.out / "cloud.PMC010xxxxxx.001.tar.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    over.set()
    bucket.asked.clear()
    assert download(wanted)["articles"] == (2 if (wanted.out / "cloud.PMC000xxxxxx.001.index.npy").exists() else 5)
    assert {path.name: path.read_bytes() for path in wanted.out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.out.iterdir()}


@pytest.mark.parametrize("lost", ["cloud.PMC010xxxxxx.001.tar", "cloud.PMC010xxxxxx.001.index.npy"])
def test_a_package_without_its_file_or_its_index_is_made_again(wanted: CloudDownload, lost: str) -> None:
    download(wanted)
    before = {path.name: path.read_bytes() for path in wanted.out.iterdir()}
    (wanted.out / lost).unlink()
    assert download(wanted)["articles"] == 2
    assert {path.name: path.read_bytes() for path in wanted.out.iterdir()} == before


def test_a_server_that_has_none_of_what_its_inventory_says_is_left_alone(bucket: Bucket, wanted: CloudDownload) -> None:
    for number in range(300, 400):
        bucket.put(f"PMC{number}.1")
    bucket.take_stock()
    bucket.faults = {key: [lambda handler, data: handler.give(b"", 403)] for key in bucket.dates}
    with pytest.raises(UserError, match=r"of the first 20 articles of a package none could be had.*HTTP 403"):
        download(wanted)
    assert len(bucket.articles_asked()) < 60
    assert not packed(wanted.out)
    bucket.faults.clear()
    assert download(wanted)["articles"] == 105


@pytest.mark.parametrize(("change", "said"), [
    ({"url": "ftp://x"}, "--url ftp://x"), ({"since": "yesterday"}, "a day as YYYY-MM-DD")])
def test_bad_requests_are_refused_before_any_work(wanted: CloudDownload, change: dict[str, Any], said: str) -> None:
    for run in (plan, download):
        with pytest.raises(UserError, match=said):
            run(dataclasses.replace(wanted, **change))
    assert not wanted.out.exists()


def test_offline_nothing_is_asked_for(bucket: Bucket, wanted: CloudDownload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        download(wanted)
    assert not bucket.asked


def test_the_command(bucket: Bucket, wanted: CloudDownload) -> None:
    command = ["corpus", "download", "--url", bucket.url, "--out", str(wanted.out)]
    listed = CliRunner().invoke(app, [*command, "--list"])
    assert listed.exit_code == 0, listed.output
    assert f"inventory of {DAY}: 5 of 5 articles to fetch" in listed.output
    done = CliRunner().invoke(app, [*command, "--json", "--limit", "2"])
    assert json.loads(done.stdout)["articles"] == 2
    assert CliRunner().invoke(app, [*command, "--packages", "baseline"]).exit_code != 0


def test_the_commands_of_the_guide(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cloud, "BUCKET", bucket.url)
    guide = (Path(__file__).parent.parent / "docs" / "guide" / "download.md").read_text(encoding="utf-8")
    commands = re.findall(r"^biomistral (corpus download --out .*)$", guide, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert len(read(tmp_path / "packages")) == 5


def test_no_room_is_told_and_nothing_stays_behind(bucket: Bucket, wanted: CloudDownload, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(UserError, match="No space left on device"):
            download(wanted)
    assert [path.name for path in wanted.out.iterdir()] == [".lock"]
    assert download(wanted)["articles"] == 5


@examples(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), unique=True, max_size=30), st.integers(1, 4))
def test_the_newest_version_of_each_whatever_the_order(pairs: list[tuple[int, int]], parts: int) -> None:
    found = np.array([(number, version, 5, number * 10 + version) for number, version in pairs], VERSIONS)
    newest = _newest([found[start::parts] for start in range(parts)]) if pairs else found
    best: dict[int, int] = {}
    for number, version in pairs:
        best[number] = max(version, best.get(number, 0))
    assert [(int(row["number"]), int(row["version"])) for row in newest] == sorted(best.items())
    assert all(int(row["etag"]) == int(row["number"]) * 10 + int(row["version"]) for row in newest)
