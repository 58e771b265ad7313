"""``corpus download --subset cloud``: PMC's single articles from its public bucket, packed into a folder that is a source.

An article costs two requests: its metadata (licence, retraction, the XML's MD5) and its XML. Without the metadata
(``--no-metadata``) it is one, but what is retracted is then known from the article alone, and author manuscripts, which
are for text mining only, come too. The bucket's layout, and what of it was not checked, is in `cloud_layout`.
"""

import hashlib
import json
import re
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from biomistral.corpus.download.cloud_layout import (
    BUCKET,
    Inventory,
    Versions,
    article,
    first_half,
    group,
    newest_inventory,
)
from biomistral.corpus.download.cloud_packages import Fetched, Package, Shelf, is_open_access
from biomistral.corpus.download.folder import check_request, claimed
from biomistral.corpus.download.transfer import Patience, Rate, RefusedError, fetch_object
from biomistral.corpus.sources.streams import DamagedError
from biomistral.errors import UserError
from biomistral.progress import bar, log

_TIMES, _SAMPLE, _AHEAD = 2, 20, 4
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class CloudDownload:
    """What to fetch, and how."""

    out: Path
    url: str | None = None
    """Of the bucket, or of a mirror with its layout."""
    since: str | None = None
    """Only articles that changed on this day (UTC) or later, ``YYYY-MM-DD``."""
    limit: int | None = None
    """Only the first so many of the articles that are missing."""
    metadata: bool = True
    connections: int = 16
    max_rate: float | None = None
    """MB/s."""
    patience: Patience = field(default_factory=Patience)

    @property
    def base(self) -> str:
        return (self.url or BUCKET).rstrip("/")


def plan(wanted: CloudDownload) -> dict[str, Any]:
    """How many articles a download would fetch, and about how many bytes.

    The inventory has no sizes: ``bytes`` is the number times the mean of up to 20 articles, taken evenly and fetched for it.

    Raises:
        UserError: offline, a bad date or address, the server does not answer, or has no inventory.
    """
    check_request(wanted.url, wanted.base, wanted.since, wanted.out)
    rate = Rate((wanted.max_rate or 0) * 1e6)
    with tempfile.TemporaryDirectory() as folder:
        inventory = newest_inventory(wanted.base, Path(folder), wanted.patience, rate)
    missing = _missing(wanted, inventory, Shelf(wanted.out))
    sample = missing[np.unique(np.linspace(0, len(missing) - 1, _SAMPLE).astype(int))] if len(missing) else missing
    sizes = [len(fetched.data) for fetched in _outcomes(wanted, sample, rate) if not fetched.refused]
    return {"inventory": inventory.name, "there": len(inventory.versions), "articles": len(missing),
            "bytes": round(sum(sizes) / max(1, len(sizes)) * len(missing)), "sampled": len(sizes)}


def download(wanted: CloudDownload) -> dict[str, Any]:
    """Fetch the newest version of every article that the folder does not have as it is now; killed, it goes on at the package.

    What cannot be had (missing, damaged twice) is in ``cloud.refused.csv`` and is asked for again by the next run.

    Raises:
        UserError: see `plan`; no room on the disk; the server stops answering; of the first 20 articles none could be had.
    """
    check_request(wanted.url, wanted.base, wanted.since, wanted.out)
    wanted.out.mkdir(parents=True, exist_ok=True)
    rate = Rate((wanted.max_rate or 0) * 1e6)
    with claimed(wanted.out):
        inventory = newest_inventory(wanted.base, wanted.out, wanted.patience, rate)
        shelf = Shelf(wanted.out)
        missing = _missing(wanted, inventory, shelf)
        if gone := shelf.gone(inventory.versions):
            log.warning("%s: %d articles in it are no longer in PMC's inventory of %s", wanted.out, gone, inventory.name)
        done = dict.fromkeys(("packages", "articles", "left_out", "refused", "bytes"), 0)
        for part in _packed(wanted, inventory, missing, shelf, rate):
            done = {name: done[name] + count for name, count in part.items()}
    return {"folder": str(wanted.out), "url": wanted.base, "inventory": inventory.name, "asked": len(missing), **done,
            "gone": gone}


def _missing(wanted: CloudDownload, inventory: Inventory, shelf: Shelf) -> Versions:
    there = inventory.versions
    chosen = shelf.missing(there)
    if wanted.since:
        chosen &= there["changed"] >= datetime.fromisoformat(wanted.since).replace(tzinfo=UTC).timestamp()
    return there[chosen][:wanted.limit]


def _packed(wanted: CloudDownload, inventory: Inventory, missing: Versions, shelf: Shelf, rate: Rate) -> Iterator[dict[str, int]]:
    """Write the packages; what each has."""
    package = None
    try:
        with bar("downloading (articles)", len(missing)) as progress, closing(_outcomes(wanted, missing, rate)) as outcomes:
            for fetched in outcomes:
                millions = group(int(fetched.version["number"]))
                if package and package.group != millions:
                    yield package.finish(wanted.base, inventory.name)
                    package = None
                package = package or Package(wanted.out, shelf, millions)
                package.add(fetched)
                if package.useless:
                    raise UserError(f"{wanted.base}: of the first 20 articles of a package none could be had, the last: "
                                    f"{fetched.refused}; check --url")
                progress.advance()
                if package.full:
                    yield package.finish(wanted.base, inventory.name)
                    package = None
        if package:
            yield package.finish(wanted.base, inventory.name)
            package = None
    finally:
        if package:
            package.abandon()


def _outcomes(wanted: CloudDownload, rows: Versions, rate: Rate) -> Generator[Fetched, None, None]:
    """What comes of each article, in order; so many at a time, and at most four times as many waiting in memory."""
    stopped = threading.Event()

    def sleep(seconds: float) -> None:
        if stopped.is_set():  # the run ended: nobody waits for this one
            raise RefusedError("stopped")
        wanted.patience.sleep(seconds)

    patience = replace(wanted.patience, sleep=sleep)
    pool = ThreadPoolExecutor(wanted.connections, "download")
    pending: deque[Future[Fetched]] = deque()
    try:
        for row in rows:
            pending.append(pool.submit(_fetch, wanted, row, patience, rate))
            if len(pending) >= _AHEAD * wanted.connections:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _fetch(wanted: CloudDownload, row: np.void, patience: Patience, rate: Rate) -> Fetched:
    """An article and its metadata, both once more if one is damaged: it may have been replaced between the two."""
    why = ""
    for _ in range(_TIMES):
        try:
            return _once(wanted, row, patience, rate)
        except RefusedError as error:
            return Fetched(row, refused=str(error))
        except DamagedError as error:
            why = str(error)
    return Fetched(row, refused=f"damaged, {_TIMES} times: {why}")


def _once(wanted: CloudDownload, row: np.void, patience: Patience, rate: Rate) -> Fetched:
    """Raises DamagedError if something is not what was promised."""
    name, facts, stated = article(row), None, ""
    if wanted.metadata:
        text, etag = fetch_object(f"{wanted.base}/metadata/{name}.json", patience, rate)
        row, facts = _verified_row(row, text, etag), _facts(name, text)
        if not is_open_access(facts):
            return Fetched(row, facts=facts, left_out=True)
        stated = parse_qs(urlsplit(str(facts.get("xml_url") or "")).query).get("md5", [""])[0]
    data, etag = fetch_object(f"{wanted.base}/{name}/{name}.xml", patience, rate)
    said = next((said for said in (stated.lower(), etag.strip('"').lower()) if _MD5.fullmatch(said)), "")
    if said and (found := hashlib.md5(data, usedforsecurity=False).hexdigest()) != said:
        raise DamagedError("damaged", f"the XML's MD5 is {found}, not {said}")
    if not data.strip():
        raise DamagedError("empty", "the XML is empty")
    return Fetched(row, data, facts)


def _verified_row(row: np.void, text: bytes, etag: str) -> np.void:
    """The row with the MD5 of the metadata as they came: the bucket can be a day ahead of its inventory."""
    found = hashlib.md5(text, usedforsecurity=False).hexdigest()
    said = etag.strip('"').lower()
    if "-" in said:  # put there in parts: no MD5 of the whole
        return row
    if found != said if _MD5.fullmatch(said) else row["etag"] not in (0, first_half(found)):
        raise DamagedError("damaged", f"the metadata's MD5 is {found}, not {said or 'that of the inventory'}")
    seen = row.copy()
    if seen["etag"]:
        seen["etag"] = first_half(found)
    return seen


def _facts(name: str, text: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise DamagedError("damaged", f"metadata/{name}.json is not JSON ({error})") from error
    if not isinstance(facts, dict) or "is_pmc_openaccess" not in facts:
        raise DamagedError("damaged", f"metadata/{name}.json does not say whether it is open access")
    return facts
