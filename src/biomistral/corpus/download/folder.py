"""The folder that downloads go to: its record, its lock, the room on its disk, and what is checked before any request."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from biomistral.assets import offline
from biomistral.errors import UserError

RECORD = "downloads.json"
_SPARE = 256 << 20


def check_request(given: str | None, url: str, since: str | None, out: Path) -> None:
    """Refuse an address that is none (``given`` is what the user wrote), a day that is none, and every download offline.

    Raises:
        UserError: one of these.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {given}: an address that begins with https:// or http:// was expected")
    if offline():
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing is downloaded; on a machine with a network fetch the packages of "
                        f"{url} and put them into {out}")
    try:
        date.fromisoformat(since or "2000-01-01")
    except ValueError as error:
        raise UserError(f"--since {since}: a day as YYYY-MM-DD was expected") from error


def read_record(out: Path) -> dict[str, dict[str, Any]]:
    """What ``downloads.json`` says of each file; empty if there is none.

    Raises:
        UserError: it cannot be read, or is no such record.
    """
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{out / RECORD}: not readable ({error}); remove it, and what it names is fetched again") from error
    if not isinstance(record, dict) or not all(isinstance(entry, dict) for entry in record.values()):
        raise UserError(f"{out / RECORD}: not a record of downloads; remove it, and what it names is fetched again")
    return record


def check_room(out: Path, size: int) -> None:
    """Refuse with UserError to begin what has no room: ``size`` bytes, and 256 MB to spare."""
    free = shutil.disk_usage(out).free
    if size + _SPARE > free:
        raise UserError(f"{out}: {size / 1e9:.1f} GB are to come and {free / 1e9:.1f} GB are free there; choose another --out, "
                        "or fewer packages with --limit, --since or --packages")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Two processes never write into one folder; the lock ends with the process."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another download is at work there; wait for it or stop it") from error
        yield
