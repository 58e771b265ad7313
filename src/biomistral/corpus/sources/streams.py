"""Files as streams of unpacked bytes: the packing is told by their first bytes, all that comes before damage is given."""

import bz2
import importlib
import importlib.util
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

_READ, _GIVE = 64 << 10, 1 << 20
_BOMB_FROM, _BOMB_RATIO = 64 << 20, 200
"""Articles pack 4 to 10 times, zeros 1,030 times: past 64 MB, more than 200 times is no text."""
_XZ_MEMORY = 256 << 20
_isal: Any = importlib.import_module("isal.isal_zlib") if importlib.util.find_spec("isal") else None
"""Intel's inflate gives the same bytes in 0.07 s for 86 MB where zlib takes 0.18 s."""


class DamagedError(Exception):
    """The data end or go wrong here; ``reason`` is the word that is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def unpacked(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file that can seek, unpacked (gzip, bzip2, xz, Zstandard, or none of them), in parts of at most 1 MB.

    Raises:
        DamagedError: after everything that could be read: ``truncated``, ``damaged``, ``bomb`` or ``unreadable``.
    """
    produced = 0
    try:
        for part in _reader(file)(file):
            produced += len(part)
            if produced > max(_BOMB_FROM, _BOMB_RATIO * file.tell()):
                raise DamagedError("bomb", f"unpacks to more than {_BOMB_RATIO} times its size")
            yield part
    except OSError as error:
        raise DamagedError("unreadable", error.strerror or str(error)) from error


def open_unpacked(path: Path) -> Iterator[bytes]:
    """`unpacked` of a path; what is no regular file is never opened (a pipe would wait forever).

    Raises:
        DamagedError: also ``unreadable``: not there (any more), not a file, or not permitted.
    """
    try:
        if path.exists() and not path.is_file():
            raise DamagedError("unreadable", "it is not a regular file")
        with path.open("rb") as file:
            yield from unpacked(file)
    except OSError as error:
        raise DamagedError("unreadable", error.strerror or str(error)) from error


def _reader(file: BinaryIO) -> Callable[[BinaryIO], Iterator[bytes]]:
    magic = file.read(6)
    file.seek(0)
    for start, reader in ((b"\x1f\x8b", _gunzip), (b"BZh", _bunzip2), (b"\xfd7zXZ\0", _unxz), (b"\x28\xb5\x2f\xfd", _unzstd)):
        if magic.startswith(start):
            return reader
    return _plain


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(_GIVE):
        yield part


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Inflate quickly; where that fails, go over it again with zlib, which gives all that comes before the error."""
    given = 0
    if _isal:
        try:
            for part in _inflated(file, _isal.decompressobj):
                given += len(part)
                yield part
            return
        except (_isal.error, DamagedError):
            file.seek(0)
    for part in _inflated(file, zlib.decompressobj):
        if len(part) > given:
            yield part[given:]
        given = max(0, given - len(part))


def _inflated(file: BinaryIO, make: Callable[[int], Any]) -> Iterator[bytes]:
    """Every member of a gzip file, one after the other; zeros may follow the last."""
    data = file.read(_READ)
    while data:
        if len(data) < 4:
            data += file.read(_READ)
        if make is not zlib.decompressobj and data[3:4] and data[3] & 0xE2:  # flags that zlib checks and isal does not
            raise DamagedError("damaged", "an unusual header")
        inflater = make(31)  # 31: a gzip member, its checksum and length checked
        while not inflater.eof:
            ended = not data and not (data := file.read(_READ))
            before = None if make is not zlib.decompressobj else inflater.copy()
            try:
                part = inflater.decompress(data, _GIVE)
            except zlib.error as error:
                yield from _until_error(before, data)
                raise DamagedError("damaged", f"the compressed data are wrong: {error}") from error
            if part:
                yield part
            elif ended:
                raise DamagedError("truncated", "the compressed data end early")
            data = inflater.unconsumed_tail
        data = (inflater.unused_data or file.read(_READ)).lstrip(b"\0")
        while not data and (data := file.read(_READ)):
            data = data.lstrip(b"\0")


def _until_error(inflater: Any, data: bytes) -> Iterator[bytes]:
    """What comes of data before the error in them: they are given byte by byte."""
    for place in range(len(data)):
        try:
            yield inflater.decompress(data[place:place + 1])
        except zlib.error:
            return


def _bunzip2(file: BinaryIO) -> Iterator[bytes]:
    return _decompressed(file, bz2.BZ2Decompressor)


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    return _decompressed(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))


def _decompressed(file: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    data = file.read(_READ)
    while data:
        inflater = make()
        while not inflater.eof:
            if inflater.needs_input and not data and not (data := file.read(_READ)):
                raise DamagedError("truncated", "the compressed data end early")
            try:
                part = inflater.decompress(data if inflater.needs_input else b"", _READ)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise DamagedError("damaged", f"the compressed data are wrong: {error}") from error
            data = b""
            if part:
                yield part
        data = (inflater.unused_data or file.read(_READ)).lstrip(b"\0")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
        while True:
            try:
                part = stream.read(_READ)
            except OSError as error:
                raise DamagedError("damaged", f"the compressed data are wrong: {error}") from error
            if not part:
                return
            yield part


class Stream:
    """Parts of bytes read as one file: ``read`` gives less than asked for only at the end, which may be ``damage``."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")
        self.damage: DamagedError | None = None

    def _more(self) -> bool:
        try:
            self._rest = memoryview(next(self._parts, b""))
        except DamagedError as error:
            self.damage = error
        return bool(self._rest)

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, in memory."""
        if size <= len(self._rest):
            part, self._rest = self._rest[:size], self._rest[size:]
            return bytes(part)
        parts: list[memoryview] = []
        while size and (self._rest or self._more()):
            parts.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        """Pass over ``size`` bytes, whatever their number, without keeping them; False if there were fewer."""
        while size and (self._rest or self._more()):
            passed = min(size, len(self._rest))
            self._rest = self._rest[passed:]
            size -= passed
        return not size
