"""How articles lie in PMC's public bucket, and its daily inventory as one compact table of their newest versions.

From the documentation (the bucket's ``README.txt`` and PMC's page on the Cloud Service, as of 2026): objects of an article
version are under ``PMC13901.1/`` (``PMC13901.1.xml``, ``.txt``, ``.json``, at times ``.pdf`` and media); the JSON is also
``metadata/PMC13901.1.json`` with ``pmid, citation, is_pmc_openaccess, is_retracted, license_code`` (``CC BY``, ...; ``TDM`` for
author manuscripts) and ``xml_url``, whose parameter ``md5`` is the XML's. The inventory has the JSON objects alone (bucket,
key, date, ETag; no sizes of articles); since the JSON names the MD5 of every object, its ETag changes with any of them.
Inventories are folders ``inventory-reports/pmc-oa-opendata/metadata/2026-01-18T01-00Z/``; a ``manifest.json`` names CSV files.

Not checked against the live server: all of it; what is tested is a local server that follows these documents. Not in them, and
taken from S3's own: the manifest's ``fileSchema`` and ``MD5checksum``, the listing's XML, and that an ETag without a dash is
an MD5. Not documented at all: how a yes is written in the JSON (``true`` and "yes" are understood).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from biomistral.corpus.download.folder import check_room
from biomistral.corpus.download.transfer import Patience, Rate, RefusedError, Transfer, fetch_text
from biomistral.corpus.sources.streams import DamagedError
from biomistral.errors import UserError
from biomistral.progress import bar

BUCKET = "https://pmc-oa-opendata.s3.amazonaws.com"
_REPORTS = "inventory-reports/pmc-oa-opendata/metadata/"
_SCHEMA = "Bucket, Key, LastModifiedDate, ETag"
_ARTICLE = r"^metadata/PMC(?P<number>\d{1,9})\.(?P<version>\d{1,4})\.json$"
VERSIONS = np.dtype([("number", "<u4"), ("version", "<u2"), ("changed", "<u4"), ("etag", "<u8")])
"""An article version: PMCID, version, seconds since 1970, the first half of the ETag. 18 bytes, so 10 million take 180 MB."""
Versions: TypeAlias = npt.NDArray[np.void]


@dataclass(frozen=True)
class Inventory:
    """What there was on a day: the newest version of every article, by number."""

    name: str
    """Such as ``2026-01-18T01-00Z``."""
    versions: Versions


def article(row: np.void) -> str:
    """``PMC13901.1``."""
    return f"PMC{row['number']}.{row['version']}"


def group(number: int) -> str:
    """Articles of one million are packed together: ``PMC010xxxxxx``."""
    return f"PMC{number // 1_000_000:03d}xxxxxx"


def day(seconds: int) -> str:
    """As file lists write it, ``YYYY-MM-DD HH:MM:SS`` (UTC)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def first_half(md5: str) -> int:
    """The first 64 bits of an MD5 in hexadecimal; 0 if it is none."""
    found = re.match(r'"?([0-9a-fA-F]{16})', md5)
    return int(found[1], 16) if found else 0


def newest_inventory(base: str, folder: Path, patience: Patience, rate: Rate) -> Inventory:
    """Fetch the newest inventory, by way of a temporary file in ``folder``.

    Raises:
        UserError: the server does not answer, or there is no inventory that can be read.
    """
    try:
        name, manifest = _manifest(base, patience)
        columns = [column.strip() for column in str(manifest.get("fileSchema") or _SCHEMA).split(",")]
        parts = [part for number, file in enumerate(manifest["files"])
                 for part in _read(_fetch(base, file, folder / f"inventory.{number}.csv.gz.partial", patience, rate), columns)]
    except RefusedError as error:
        raise UserError(f"{error}; check --url") from error
    except (DamagedError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{base}/{_REPORTS}{name}: not an inventory as S3 writes it ({error}); check --url") from error
    if not sum(map(len, parts)):
        raise UserError(f"{base}/{_REPORTS}{name}: no key like metadata/PMC13901.1.json in it; check --url")
    return Inventory(name, _newest(parts))


def _manifest(base: str, patience: Patience) -> tuple[str, dict[str, Any]]:
    """Of the newest inventory that has one: S3 writes the manifest last."""
    listing = f"{base}/?list-type=2&prefix={quote(_REPORTS, safe='')}&delimiter=%2F"
    names = sorted(set(re.findall(rf"<Prefix>{re.escape(_REPORTS)}(\d{{4}}-\d\d-\d\dT\d\d-\d\dZ)/</Prefix>",
                                  fetch_text(listing, patience))), reverse=True)
    refused: Exception = RefusedError(f"{listing}: no inventory there")
    for name in names[:3]:
        try:
            text = fetch_text(f"{base}/{_REPORTS}{name}/manifest.json", patience)
        except RefusedError as error:
            refused = error
            continue
        try:
            return name, dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise RefusedError(f"{base}/{_REPORTS}{name}/manifest.json: not JSON as S3 writes it ({error})") from error
    raise refused


def _fetch(base: str, file: dict[str, Any], partial: Path, patience: Patience, rate: Rate) -> Path:
    """One CSV file of an inventory, verified by the manifest's MD5."""
    url, stated = f"{base}/{quote(file['key'])}", str(file.get("MD5checksum") or "").lower()
    with bar("inventory (MB)", float(file.get("size") or 0) / 1e6) as progress:
        transfer = Transfer(url, partial, patience, rate, progress, lambda size: check_room(partial.parent, size))
        for _ in range(2):
            transfer.run()
            with partial.open("rb") as stream:
                found = hashlib.file_digest(stream, "md5").hexdigest()
            if not stated or found == stated:
                return partial
            transfer.forget()
    raise RefusedError(f"{url}: its MD5 is {found}, the manifest says {stated}")


def _read(path: Path, columns: list[str]) -> Iterator[Versions]:
    """The article versions of a CSV file, a megabyte at a time; the file is removed after."""
    wanted = ["Key", "LastModifiedDate", "ETag"]
    try:
        with pa.input_stream(str(path), compression="gzip") as stream:
            convert = csv.ConvertOptions(column_types={name: pa.string() for name in columns}, include_columns=wanted)
            yield from map(_versions, csv.open_csv(stream, csv.ReadOptions(column_names=columns), convert_options=convert))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DamagedError("damaged", (str(error) or "damaged").splitlines()[0]) from error
    finally:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".json").unlink(missing_ok=True)


def _versions(batch: pa.RecordBatch) -> Versions:
    found = pc.extract_regex(batch["Key"], _ARTICLE)
    there = pc.is_valid(found)
    found, batch = found.filter(there), batch.filter(there)
    changed = pc.strptime(pc.utf8_slice_codeunits(batch["LastModifiedDate"], 0, 19), "%Y-%m-%dT%H:%M:%S", "s", error_is_null=True)
    etag = pc.struct_field(pc.extract_regex(batch["ETag"], r"^(?P<half>[0-9a-fA-F]{16})"), "half")
    rows: Versions = np.empty(len(batch), VERSIONS)
    for name in ("number", "version"):
        rows[name] = pc.struct_field(found, name).cast(pa.uint32()).to_numpy(zero_copy_only=False)
    rows["changed"] = pc.fill_null(changed.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    rows["etag"] = np.frombuffer(bytes.fromhex("".join(pc.fill_null(etag, "0" * 16).to_pylist())), ">u8")
    return rows


def _newest(parts: list[Versions]) -> Versions:
    """Sorted by number; of several versions the highest."""
    rows: Versions = np.concatenate(parts)
    parts.clear()
    order = np.lexsort((rows["changed"], rows["version"], rows["number"]))
    number = rows["number"][order]
    last: npt.NDArray[np.bool_] = np.append(number[1:] != number[:-1], True)
    newest: Versions = rows[order[last]]
    return newest
