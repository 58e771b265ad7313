"""Single articles packed into local packages, each written whole or not at all, and which articles a folder has of them.

A package is ``cloud.PMC010xxxxxx.003.tar``, its ``.filelist.csv`` (NCBI's columns) and its ``.index.npy``, which is written last:
without it the package does not count, and its number is used again.
"""

import csv
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomistral.corpus.download.cloud_layout import VERSIONS, Versions, article, day, group
from biomistral.corpus.download.folder import RECORD, check_room, read_record
from biomistral.errors import UserError
from biomistral.files import sha256, write_json, write_text
from biomistral.progress import log

MOST_ARTICLES, MOST_BYTES = 10_000, 500 << 20
_INDEX = re.compile(r"(cloud\.(PMC\d+xxxxxx)\.(\d+))\.index\.npy")
_COLUMNS = ("Article File", "Article Citation", "AccessionID", "LastUpdated (YYYY-MM-DD HH:MM:SS)", "PMID", "License",
            "Retracted")
_REFUSED = "cloud.refused.csv"


@dataclass(frozen=True)
class Fetched:
    """What came of an article; ``version`` is a row of `VERSIONS` with the ETag of what was read."""

    version: np.void
    data: bytes = b""
    facts: dict[str, Any] | None = None
    """Its metadata."""
    left_out: bool = False
    """Not in the open-access subset."""
    refused: str = ""


class Shelf:
    """The packages of a folder."""

    def __init__(self, out: Path) -> None:
        """Read the indexes; those whose package is gone or has another size do not count."""
        self._out = out
        self._record = read_record(out)
        self._indexes: dict[str, Versions] = {}
        found = sorted((match[2], int(match[3]), match[1]) for path in out.glob("cloud.*.index.npy")
                       if (match := _INDEX.fullmatch(path.name)))
        for _, _, stem in found:
            index = _read_index(out / f"{stem}.index.npy")
            if index is not None and self._whole(stem):
                self._indexes[stem] = index
        self.refused = _read_refused(out / _REFUSED)

    def _whole(self, stem: str) -> bool:
        entry, place = self._record.get(f"{stem}.tar"), self._out / f"{stem}.tar"
        return entry is None or (place.is_file() and place.stat().st_size == entry.get("bytes"))

    def missing(self, there: Versions) -> npt.NDArray[np.bool_]:
        """Which of ``there`` (sorted by number, each once) the folder does not have as they are."""
        missing: npt.NDArray[np.bool_] = np.ones(len(there), np.bool_)
        for index in self._indexes.values():  # a later package of an article replaces what an earlier one says
            at: npt.NDArray[np.intp] = np.searchsorted(there["number"], index["number"])
            known = at < len(there)
            at, index = at[known], index[known]
            same = there["number"][at] == index["number"]
            at, index = at[same], index[same]
            missing[at] = (there["version"][at] != index["version"]) | (there["etag"][at] != index["etag"])
        return missing

    def gone(self, there: Versions) -> int:
        """How many articles the folder has that are no longer there."""
        numbers = [index["number"] for index in self._indexes.values()]
        return int((~np.isin(np.unique(np.concatenate(numbers)), there["number"])).sum()) if numbers else 0

    def next_stem(self, millions: str) -> str:
        """The name of the next package of a million."""
        last = max((int(stem.rpartition(".")[2]) for stem in self._indexes if stem.startswith(f"cloud.{millions}.")), default=0)
        return f"cloud.{millions}.{last + 1:03d}"

    def put(self, stem: str, index: Versions, entry: dict[str, Any], refused: dict[str, str]) -> None:
        """Count a package as there; the index comes last."""
        for row in index:
            self.refused.pop(article(row), None)
        self.refused.update(refused)
        _write_refused(self._out / _REFUSED, self.refused)
        self._record = {name: value for name, value in self._record.items() if name != f"{stem}.tar"}
        if entry:
            self._record[f"{stem}.tar"] = entry
        write_json(self._out / RECORD, dict(sorted(self._record.items())))
        if len(index):
            temporary = self._out / f"{stem}.index.npy.partial"
            with temporary.open("wb") as file:
                np.save(file, index)
            temporary.replace(self._out / f"{stem}.index.npy")
            self._indexes[stem] = index

    def withdraw(self, millions: str, numbers: set[int]) -> None:
        """Say in the lists of the packages that are there that these articles are retracted, so that no old copy passes."""
        wanted = np.array(sorted(numbers), np.uint32)
        for stem, index in self._indexes.items():
            place = self._out / f"{stem}.filelist.csv"
            if not stem.startswith(f"cloud.{millions}.") or not np.isin(index["number"], wanted).any() or not place.is_file():
                continue
            with place.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            for row in rows:
                if int(row["AccessionID"].removeprefix("PMC")) in numbers:
                    row["Retracted"] = "yes"
            write_text(place, _table(_COLUMNS, ([row[name] for name in _COLUMNS] for row in rows)))


class Package:
    """A package that is being written."""

    def __init__(self, out: Path, shelf: Shelf, millions: str) -> None:
        check_room(out, MOST_BYTES)
        self.group, self._out, self._shelf = millions, out, shelf
        self._stem = shelf.next_stem(millions)
        for kind in ("index.npy", "tar", "filelist.csv"):  # of a run that was killed before the index, or a package taken away
            (out / f"{self._stem}.{kind}").unlink(missing_ok=True)
        self._partial = out / f"{self._stem}.tar.partial"
        self._tar = tarfile.TarFile(self._partial, "w", format=tarfile.USTAR_FORMAT)
        self._rows: list[list[str]] = []
        self._index: list[np.void] = []
        self._refused: dict[str, str] = {}
        self._withdrawn: set[int] = set()
        self._size = 0

    @property
    def full(self) -> bool:
        return len(self._index) >= MOST_ARTICLES or self._size >= MOST_BYTES

    @property
    def useless(self) -> bool:
        """Twenty articles were tried for the first time, and none could be had: the server is not what it is taken for."""
        return not self._index and len(self._refused.keys() - self._shelf.refused.keys()) >= 20

    def add(self, fetched: Fetched) -> None:
        """Take in an article, or that it is left out or refused."""
        row, name = fetched.version, article(fetched.version)
        if fetched.refused:
            self._refused[name] = fetched.refused
            log.warning("%s: %s", name, fetched.refused)
            return
        self._index.append(row)
        retracted = _says(fetched.facts, "is_retracted")
        if retracted or fetched.left_out:
            self._withdrawn.add(int(row["number"]))
        if fetched.left_out:
            return
        member = tarfile.TarInfo(f"{group(int(row['number']))}/{name}.xml")
        member.size, member.mtime = len(fetched.data), int(row["changed"])
        with _written(self._partial):
            self._tar.addfile(member, io.BytesIO(fetched.data))
        self._size += len(fetched.data)
        facts = fetched.facts or {}
        known = "" if fetched.facts is None else "yes" if retracted else "no"
        self._rows.append([member.name, _words(facts.get("citation")), f"PMC{row['number']}", day(int(row["changed"])),
                           _words(facts.get("pmid")), _words(facts.get("license_code")), known])

    def finish(self, url: str, inventory: str) -> dict[str, int]:
        """Put the package in its place; what it has."""
        with _written(self._partial):
            self._tar.close()
        self._shelf.withdraw(self.group, self._withdrawn)
        entry = {}
        if self._rows:
            write_text(self._out / f"{self._stem}.filelist.csv", _table(_COLUMNS, self._rows))
            self._partial.replace(self._out / f"{self._stem}.tar")
            place = self._out / f"{self._stem}.tar"
            entry = {"url": url, "bytes": place.stat().st_size, "sha256": sha256(place), "inventory": inventory,
                     "articles": len(self._rows), "verified": "md5"}
        self._partial.unlink(missing_ok=True)
        self._shelf.put(self._stem, np.array(self._index, VERSIONS), entry, self._refused)
        return {"packages": bool(self._rows), "articles": len(self._rows), "left_out": len(self._index) - len(self._rows),
                "refused": len(self._refused), "bytes": self._size}

    def abandon(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # a full disk was told already
            self._tar.close()
        self._partial.unlink(missing_ok=True)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another --out, and the same command "
                        "goes on") from error


def _says(facts: dict[str, Any] | None, name: str) -> bool:
    """A yes or no of the metadata; documented as such, not how it is written."""
    return str((facts or {}).get(name)).lower() in ("true", "yes", "1")


def is_open_access(facts: dict[str, Any]) -> bool:
    """Whether PMC's metadata counts an article to the open-access subset (author manuscripts for text mining are not)."""
    return _says(facts, "is_pmc_openaccess")


def _words(value: object) -> str:
    """One line: the reader of file lists takes a line break for the end of a row."""
    return "" if value is None else " ".join(str(value).split())


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _read_index(path: Path) -> Versions | None:
    try:
        index: Versions = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return index if index.dtype == VERSIONS else None


def _read_refused(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["article"]: row["reason"] for row in csv.DictReader(stream)}


def _write_refused(path: Path, refused: dict[str, str]) -> None:
    if refused or path.exists():
        write_text(path, _table(("article", "reason"), sorted(refused.items())))
