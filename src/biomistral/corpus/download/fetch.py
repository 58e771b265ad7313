"""``corpus download``: bulk packages of open-access articles into a folder that ``corpus build`` reads as a source."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomistral.corpus.download.bulk_layout import (
    NCBI,
    Listed,
    Package,
    Packages,
    Subset,
    choose,
    folder_url,
    packages_of,
    read_page,
)
from biomistral.corpus.download.folder import RECORD, check_request, check_room, claimed, read_record
from biomistral.corpus.download.transfer import Patience, Rate, RefusedError, Seen, Transfer, fetch_text
from biomistral.corpus.sources.streams import DamagedError, open_unpacked
from biomistral.errors import UserError
from biomistral.files import sha256, write_json
from biomistral.progress import bar, log

_TIMES = 2
_WITHDRAWN = ("NCBI withdrew its bulk packages in August 2026: take --subset cloud or europe_pmc, or name with --url a mirror "
              "that keeps their layout")


@dataclass(frozen=True)
class Download:
    """What to fetch, and how."""

    subset: Subset
    out: Path
    url: str | None = None
    since: str | None = None
    """Of incremental packages: from this day on, ``YYYY-MM-DD``."""
    packages: Packages = "all"
    limit: int | None = None
    max_rate: float | None = None
    """MB/s."""
    patience: Patience = field(default_factory=Patience)


def plan(wanted: Download) -> list[dict[str, Any]]:
    """What a download would fetch, from the server's directory page: one row a file, ``state`` ``there`` or ``to fetch``.

    Raises:
        UserError: offline, a bad date, no such directory, or nothing in it that is wanted.
    """
    url, chosen = _chosen(wanted)
    record = read_record(wanted.out)
    return [{"name": file.name, "url": url + file.name, "bytes": file.size, "date": file.date, "kind": package.kind,
             "state": "there" if _is_there(wanted.out, record, url, file) else "to fetch"}
            for package in chosen for file in _files(package)]


def download(wanted: Download) -> dict[str, Any]:
    """Fetch the packages and their file lists; what is there already is not fetched again, what was cut off goes on.

    ``downloads.json`` in the folder names every file with its address, size, SHA-256 and how it was verified.

    Raises:
        UserError: see `plan`; no room on the disk; the server does not answer; some packages could not be had (the
            others are there).
    """
    url, chosen = _chosen(wanted)
    wanted.out.mkdir(parents=True, exist_ok=True)
    with claimed(wanted.out):
        record = read_record(wanted.out)
        missing = [(package, file) for package in chosen for file in _files(package)
                   if not _is_there(wanted.out, record, url, file)]
        size = sum(max(0, file.size - _partial_size(wanted.out, file.name)) for _, file in missing)
        check_room(wanted.out, size)
        failures = []
        rate = Rate((wanted.max_rate or 0) * 1e6)
        with bar("downloading (MB)", size / 1e6) as progress:
            for package, file in missing:
                progress.say(file.name)
                try:
                    transfer = Transfer(url + file.name, wanted.out / f"{file.name}.partial", wanted.patience, rate, progress,
                                        lambda size: check_room(wanted.out, size))
                    record[file.name] = _fetch(transfer, file, _checksum(url, package, file, wanted.patience))
                    write_json(wanted.out / RECORD, dict(sorted(record.items())))
                    transfer.finish(wanted.out / file.name)  # after the record: killed between them, it is only verified again
                except RefusedError as error:
                    failures.append(str(error))
                    log.warning("%s", error)
    if failures:
        raise UserError(f"{len(failures)} of {len(missing)} files could not be had, the first: {failures[0]}; the others are in "
                        f"{wanted.out}, and the same command tries again")
    return {"folder": str(wanted.out), "url": url, "packages": len(chosen), "fetched": len(missing),
            "bytes": sum(record[file.name]["bytes"] for _, file in missing)}


def _chosen(wanted: Download) -> tuple[str, list[Package]]:
    """The directory's address and the packages wanted of it."""
    url = folder_url(wanted.url, wanted.subset)
    _check(wanted, url)
    try:
        page = fetch_text(url, wanted.patience)
    except RefusedError as error:
        raise UserError(f"{error}; {_WITHDRAWN if url.startswith(NCBI) else 'check --url'}") from error
    there = packages_of(read_page(page), wanted.subset)
    chosen = choose(there, wanted.since, wanted.packages)[:wanted.limit]
    if not chosen:
        kinds = {kind: sum(package.kind == kind for package in there) for kind in ("baseline", "incremental")}
        latest = max((package.date for package in there), default="")
        raise UserError(f"{url}: no package of {wanted.subset} is wanted of the {kinds['baseline']} baseline and "
                        f"{kinds['incremental']} incremental ones there{f', the latest of {latest}' if latest else ''}; check "
                        "--url, --subset, --since and --packages")
    return url, chosen


def _check(wanted: Download, url: str) -> None:
    check_request(wanted.url, url, wanted.since, wanted.out)
    if wanted.since and wanted.subset == "europe_pmc":
        raise UserError("--since: Europe PMC has no incremental packages; leave it out")


def _files(package: Package) -> list[Listed]:
    """The file list first: without it, retracted articles of the package would pass."""
    return [file for file in (package.filelist, package.file) if file is not None]


# ---- one file -------------------------------------------------------------------------------------------------------


def _fetch(transfer: Transfer, file: Listed, checksum: str | None) -> dict[str, Any]:
    """Fetch and verify one file, once more if what came is damaged; its entry in the record."""
    for attempt in range(1, _TIMES + 1):
        seen = transfer.run()
        try:
            return _entry(transfer, file, seen, _verify(transfer.partial, checksum))
        except DamagedError as error:
            transfer.forget()
            log.warning("%s: damaged (%s)%s", file.name, error, "; fetched once more" if attempt < _TIMES else "")
            message = f"{transfer.url}: what the server sends is damaged ({error}), {_TIMES} times"
    raise RefusedError(message)


def _checksum(url: str, package: Package, file: Listed, patience: Patience) -> str | None:
    if package.checksum is None or file is not package.file:
        return None
    found = re.search(r"\b[0-9a-f]{32}\b", fetch_text(url + package.checksum.name, patience), re.IGNORECASE)
    return found[0].lower() if found else None


def _verify(path: Path, checksum: str | None) -> str:
    """How the file was found sound: by its checksum, or by the one inside a gzip file, or by its size alone.

    Raises:
        DamagedError: it is not sound.
    """
    if checksum:
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "md5").hexdigest() != checksum:
                raise DamagedError("damaged", f"its MD5 is not {checksum}")
    if not path.name.removesuffix(".partial").endswith(".gz"):
        return "md5" if checksum else "size"
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            raise DamagedError("damaged", "not gzip")
    for _ in open_unpacked(path):
        pass
    return "md5, gzip" if checksum else "gzip"


def _entry(transfer: Transfer, file: Listed, seen: Seen, verified: str) -> dict[str, Any]:
    """No time of day in it: the same files give the same record, and a corpus made from the folder the same key."""
    return {"url": transfer.url, "bytes": transfer.partial.stat().st_size, "sha256": sha256(transfer.partial),
            "etag": seen.etag, "last_modified": seen.last_modified, "listed": [file.date, file.size], "verified": verified}


def _is_there(out: Path, record: dict[str, dict[str, Any]], url: str, file: Listed) -> bool:
    """Whether a file was fetched and verified, is still that size, and the server lists it as it did then."""
    entry, place = record.get(file.name), out / file.name
    return entry is not None and entry.get("url") == url + file.name and entry.get("listed") == [file.date, file.size] \
        and place.is_file() and place.stat().st_size == entry.get("bytes")


def _partial_size(out: Path, name: str) -> int:
    partial = out / f"{name}.partial"
    return partial.stat().st_size if partial.exists() else 0
