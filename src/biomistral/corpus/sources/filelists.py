"""NCBI's file list beside a bulk package: which of its articles are retracted, when each last changed, their licences."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from biomistral.errors import UserError
from biomistral.progress import log

_NAMES = ("accessionid", "lastupdated", "license", "retracted")
_PACKAGE = re.compile(r"\.(?:tar\.gz|tgz|tar)$", re.IGNORECASE)
_ACCESSION = re.compile(r"PMC(\d{1,18})")


def list_beside(package: Path) -> Path | None:
    """``X.filelist.csv`` or ``X.filelist.txt`` beside ``X.tar.gz``."""
    stem = _PACKAGE.sub("", package.name)
    found = (package.with_name(f"{stem}.filelist.{kind}") for kind in ("csv", "txt"))
    return next((path for path in found if path.is_file()), None)


class FileList:
    """What a file list says of each article; 20 bytes a row, so that a package of a million articles costs 20 MB."""

    def __init__(self, path: Path) -> None:
        """Read a list.

        Raises:
            UserError: it is no file list.
        """
        tables = [_columns(batch) for batch in _batches(path)]
        parts = list(zip(*tables, strict=True)) or [(np.empty(0, np.int64),)] * 4
        accession, updated, retracted, licence = (np.concatenate(part) for part in parts)
        order = np.argsort(accession, kind="stable")
        self._accession: npt.NDArray[np.int64] = accession[order]
        self._updated, self._retracted = updated[order].astype("datetime64[s]"), retracted[order]
        self._licences, codes = np.unique(licence, return_inverse=True)
        self._licence = codes.astype(np.int16)[order]

    def __len__(self) -> int:
        return len(self._accession)

    def look_up(self, name: str) -> tuple[str, bool, str] | None:
        """When an article was last changed (``YYYY-MM-DD HH:MM:SS``), whether it is retracted, and its licence ("" if none).

        The article is known by the PMCID in its file's name; None if the list does not have it.
        """
        match = _ACCESSION.match(PurePosixPath(name).name)
        row = int(np.searchsorted(self._accession, int(match[1]), "right")) - 1 if match else -1
        if match is None or row < 0 or self._accession[row] != int(match[1]):
            return None
        updated = self._updated[row]
        return "" if np.isnat(updated) else str(updated).replace("T", " "), bool(self._retracted[row]), \
            str(self._licences[self._licence[row]])


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    skipped = []

    def skip(row: Any) -> str:
        skipped.append(row.actual_columns)
        return "skip"

    with path.open("rb") as stream:
        head = stream.readline(1 << 16)
    delimiter = "\t" if b"\t" in head else ","
    given = [cell.strip().strip('"') for cell in head.decode("utf-8", "replace").lstrip("\ufeff").split(delimiter)]
    known = {"".join(cell.lower().partition("(")[0].split()): cell for cell in given}
    missing = [name for name in _NAMES if name not in known]
    if "accessionid" in missing or len(missing) > 2:
        raise UserError(f"{path}: not a file list of PMC (columns {given[:8]}, without {', '.join(missing)}); "
                        "remove it, or bring the list that belongs to the package")
    try:
        reader = csv.open_csv(
            path, csv.ReadOptions(column_names=given, skip_rows=1),
            csv.ParseOptions(delimiter=delimiter, quote_char='"' if delimiter == "," else False, invalid_row_handler=skip),
            csv.ConvertOptions(column_types={name: pa.string() for name in given}, strings_can_be_null=False,
                               include_columns=[known.get(name, name) for name in _NAMES], include_missing_columns=True))
        for batch in reader:
            yield batch.rename_columns(list(_NAMES))
        if skipped:
            log.warning("%s: %d lines do not have the columns of its first line; they are not used", path, len(skipped))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable file list ({str(error).splitlines()[0]})") from error


def _columns(batch: pa.RecordBatch) -> tuple[Any, Any, Any, Any]:
    number = pc.struct_field(pc.extract_regex(batch["accessionid"].cast(pa.string()), r"PMC(?P<number>\d{1,18})"), "number")
    there = pc.is_valid(number)
    batch, number = batch.filter(there), number.filter(there)
    updated = pc.strptime(batch["lastupdated"].cast(pa.string()), "%Y-%m-%d %H:%M:%S", "s", error_is_null=True)
    retracted = pc.fill_null(pc.equal(pc.utf8_lower(batch["retracted"].cast(pa.string())), "yes"), False)
    licence = pc.fill_null(batch["license"].cast(pa.string()), "")
    return (number.cast(pa.int64()).to_numpy(zero_copy_only=False),
            updated.to_numpy(zero_copy_only=False).astype("datetime64[s]").astype(np.int64),
            retracted.to_numpy(zero_copy_only=False), licence.to_numpy(zero_copy_only=False).astype(str))
