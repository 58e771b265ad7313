"""One file over HTTP into a ``.partial`` beside its place: resumed, slowed to a rate, tried again with growing waits.

A file is only ever continued if the server says that it is still the same (``If-Range``, then the validator and the total
of its answer); else it begins anew. What the server says of a file's size is compared with what came.
"""

import email.utils
import http.client
import json
import re
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from biomistral import __version__
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.progress import Bar, log

T = TypeVar("T")
_AGENT = f"biomistral/{__version__} (corpus download)"
_CHUNK = 256 << 10
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_RETRY_AFTER = 600.0
_LARGEST_PAGE = 64 << 20


class RefusedError(Exception):
    """This file cannot be had: the server says so, or what it sends is wrong; others may still come."""


class _AgainError(Exception):
    """A fault that may pass; ``wait`` is how long the server asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


_PAGE_ATTEMPTS = 5


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to ask again without getting any further."""

    timeout: float = 60
    attempts: int = 8
    first_wait: float = 1
    most_wait: float = 120
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Rate:
    """Keeps a transfer under so many bytes a second; 0: as fast as it comes. Up to a second left unused is caught up."""

    bytes_per_second: float = 0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _due: float = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def took(self, size: int) -> None:
        """Wait until ``size`` more bytes are due."""
        if not self.bytes_per_second:
            return
        with self._lock:
            now = self.clock()
            self._due = max(self._due, now - 1) + size / self.bytes_per_second
            wait = self._due - now
        if wait > 0:
            self.sleep(wait)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to a connection that anyone can read and change."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise RefusedError(f"{req.full_url}: redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=ssl.create_default_context()))
"""One context for all: made anew for each connection it reads the certificates again, 85 ms of CPU."""


def _open(url: str, headers: dict[str, str], timeout: float) -> Any:
    """The answer to a request, 416 included."""
    try:
        return _opener.open(urllib.request.Request(url, headers={"User-Agent": _AGENT, **headers}), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        said = f"HTTP {error.code} {error.reason}"
        error.close()
        if error.code in _TRY_AGAIN:
            raise _AgainError(said, _retry_after(error.headers.get("Retry-After", ""))) from error
        raise RefusedError(f"{url}: {said}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RefusedError(f"{url}: {reason}") from error
        raise _AgainError(str(reason) or type(reason).__name__) from error


def _retry_after(value: str) -> float | None:
    """Seconds, given as such or as a date."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _patiently(url: str, step: Callable[[], T | None], progress: Callable[[], int], patience: Patience) -> T:
    """Call ``step`` until it gives a result; waits double, and begin anew whenever ``progress`` has grown."""
    best, failures = progress(), 0
    while True:
        wait, why = None, "the connection ended early"
        try:
            if (result := step()) is not None:
                return result
        except _AgainError as error:
            wait, why = error.wait, str(error)
        if progress() > best:
            best, failures = progress(), 0
        failures += 1
        if failures > patience.attempts:
            raise UserError(f"{url}: {why}, {patience.attempts} times in a row; try later, or give another --url")
        most = min(patience.most_wait, patience.first_wait * 2 ** (failures - 1))
        jitter = most * (0.5 + secrets.randbelow(1000) / 2000)  # many clients thrown out together do not come back together
        wait = jitter if wait is None else min(wait + jitter, _LONGEST_RETRY_AFTER)
        log.info("%s: %s; again in %.0f s", url.rpartition("/")[2] or url, why, wait)
        patience.sleep(wait)


def fetch_text(url: str, patience: Patience) -> str:
    """A small page.

    Raises:
        RefusedError: the server refuses it, or it has more than 64 MB.
        UserError: the server does not answer.
    """
    # a page is asked for at the start, when somebody waits: a quarter of a minute, not five as in the middle of a package
    page, _ = fetch_object(url, replace(patience, attempts=min(patience.attempts, _PAGE_ATTEMPTS)))
    return page.decode("utf-8", "replace")


def fetch_object(url: str, patience: Patience, rate: Rate | None = None) -> tuple[bytes, str]:
    """All of a small file, and its ETag ("" if the server gives none); safe to call from several threads.

    Raises:
        RefusedError: the server refuses it, or it has more than 64 MB.
        UserError: the server does not answer.
    """
    def step() -> tuple[bytes, str] | None:
        with _open(url, {"Accept-Encoding": "identity"}, patience.timeout) as answer:
            if answer.status == 416:
                raise RefusedError(f"{url}: HTTP 416")
            data = _read(answer, _LARGEST_PAGE + 1)
        if len(data) > _LARGEST_PAGE:
            raise RefusedError(f"{url}: more than {_LARGEST_PAGE >> 20} MB")
        if rate:
            rate.took(len(data))
        stated = answer.headers.get("Content-Length", "")
        return None if stated.isdigit() and len(data) < int(stated) else (data, answer.headers.get("ETag", ""))

    return _patiently(url, step, lambda: 0, patience)


@dataclass(frozen=True)
class Seen:
    """What a server says of a file: with these the next answer is told to be about the same one."""

    size: int | None
    etag: str = ""
    last_modified: str = ""

    @property
    def validator(self) -> str:
        """What ``If-Range`` takes: a strong ETag, else the date; ``""``: it cannot be resumed safely."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Transfer:
    """A file on its way; `run` ends with all of it in ``partial``."""

    def __init__(self, url: str, partial: Path, patience: Patience, rate: Rate, bar: Bar, room: Callable[[int], None]) -> None:
        self.url, self.partial, self._patience, self._rate, self._bar, self._room = url, partial, patience, rate, bar, room
        self._note = partial.with_name(partial.name + ".json")
        """What the server said when the partial file was begun; without it, the next run could not go on."""

    def run(self) -> Seen:
        """Fetch the file.

        Raises:
            RefusedError: the server refuses it, or contradicts itself about it.
            UserError: the server does not answer, or the disk has no room.
        """
        return _patiently(self.url, self._step, self._have, self._patience)

    def forget(self) -> None:
        """Remove what was fetched."""
        self.partial.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, place: Path) -> None:
        """Put the file where it belongs."""
        self.partial.replace(place)
        self._note.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _noted(self) -> Seen | None:
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
            return Seen(noted["size"], noted["etag"], noted["last_modified"]) if noted["url"] == self.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _step(self) -> Seen | None:
        """Ask for what is missing; None if the connection ended before all of it came."""
        before, have = self._noted(), self._have()
        if before and have and have == before.size:
            return before
        resume = bool(before and have and before.validator)
        headers = {"Accept-Encoding": "identity"}
        if resume:
            assert before is not None
            headers |= {"Range": f"bytes={have}-", "If-Range": before.validator}
        with _open(self.url, headers, self._patience.timeout) as answer:
            if answer.status == 416:
                return self._past_the_end(answer, before, have)
            seen = _seen(answer)
            if answer.status == 206:
                if not _continues(answer, seen, before, have):
                    self.forget()
                    raise _AgainError("the file changed between two parts; it begins anew")
                assert before is not None
                seen = before
            else:
                have = 0
                self._begin(seen)
            self._receive(answer, have, seen)
        return seen if seen.size is None or self._have() == seen.size else None

    def _begin(self, seen: Seen) -> None:
        self.partial.write_bytes(b"")
        self._room(seen.size or 0)
        write_json(self._note, {"url": self.url, "size": seen.size, "etag": seen.etag, "last_modified": seen.last_modified})

    def _receive(self, answer: Any, have: int, seen: Seen) -> None:
        try:
            with self.partial.open("ab" if have else "wb") as file:
                while data := _read(answer, _CHUNK):
                    file.write(data)
                    self._bar.advance(len(data) / 1e6)
                    self._rate.took(len(data))
        except OSError as error:  # of the disk: those of the connection are told by _read
            raise UserError(f"{self.partial}: cannot be written ({error.strerror}); make room or choose another --out, and the "
                            "same command goes on") from error

    def _past_the_end(self, answer: Any, before: Seen | None, have: int) -> Seen:
        """The server has no more: the file is whole if it has that size, and begins anew if not."""
        total = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
        if before and total and int(total[1]) == have:
            return Seen(have, before.etag, before.last_modified)
        self.forget()
        raise _AgainError("the server has less of the file than it sent before; it begins anew")


def _read(answer: Any, size: int) -> bytes:
    try:
        return bytes(answer.read(size))
    except (OSError, http.client.HTTPException) as error:
        raise _AgainError(str(error) or type(error).__name__) from error


def _seen(answer: Any) -> Seen:
    """What an answer says of the whole file, whether it is all of it (200) or a part (206)."""
    headers = answer.headers
    stated = headers.get("Content-Length", "")
    if answer.status == 206:
        total = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
        stated = total[1] if total else ""
    return Seen(int(stated) if stated.isdigit() else None, headers.get("ETag", ""), headers.get("Last-Modified", ""))


def _continues(answer: Any, seen: Seen, before: Seen | None, have: int) -> bool:
    """Whether a part begins where ours ends, in the same file."""
    if before is None or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return False
    same_tag = not seen.etag or not before.etag or seen.etag == before.etag
    same_date = not seen.last_modified or not before.last_modified or seen.last_modified == before.last_modified
    return same_tag and same_date and seen.size == before.size
