"""The articles in an archive (tar or zip), read as a stream; nothing is ever unpacked to the disk."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from biomistral.corpus.sources.streams import DamagedError, Stream, open_unpacked, unpacked
from biomistral.corpus.sources.tar import TarReader

ARTICLES = (".xml", ".nxml", ".xml.gz", ".nxml.gz")
_ZIP_RATIO, _ZIP_FROM = 200, 64 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for damage, passwords (RuntimeError) and methods it does not know (NotImplementedError)."""

Found = tuple[str, bytes | DamagedError]


def articles_in(path: Path, limit: int) -> Iterator[Found]:
    """Name and bytes of every article in an archive, or why it is refused.

    Raises:
        DamagedError: where the archive is damaged, after all that comes before that.
    """
    if path.suffix.lower() == ".zip":
        yield from _in_zip(path, limit)
        return
    stream = Stream(open_unpacked(path))
    reader = TarReader(stream)
    for member in reader:
        name = readable(member.name)
        if unsafe := _unsafe(member.name, member.kind):
            yield name, unsafe
        elif member.kind == "file" and member.name.lower().endswith(ARTICLES):
            yield name, too_large(limit) if member.size > limit else _plain(name, reader.read(), limit)


def readable(name: str) -> str:
    """A name that any table can hold: bytes that are not UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unsafe(name: str, kind: str) -> DamagedError | None:
    """Why a member is refused whatever it holds: it points out of the archive, or is neither a file nor a folder."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name:
        return DamagedError("unsafe_member", "its path leaves the archive")
    return DamagedError("unsafe_member", "it is a link, a device or a file with holes") if kind == "other" else None


def too_large(limit: int) -> DamagedError:
    """Why a document of more than ``limit`` bytes is refused."""
    return DamagedError("too_large", f"over {limit >> 20} MB")


def _plain(name: str, data: bytes, limit: int) -> bytes | DamagedError:
    return whole(unpacked(io.BytesIO(data)), limit) if name.lower().endswith(".gz") else data


def whole(parts: Iterator[bytes], limit: int, head: bytes = b"") -> bytes | DamagedError:
    """All of a document of at most ``limit`` bytes; reading ends there."""
    collected, size = [head], len(head)
    try:
        for part in parts:
            collected.append(part)
            size += len(part)
            if size > limit:
                break
    except DamagedError as error:
        return error
    return too_large(limit) if size > limit else b"".join(collected)


def _in_zip(path: Path, limit: int) -> Iterator[Found]:
    """Members of a zip file in the order they were put in; their checksums are verified."""
    try:
        size, produced = path.stat().st_size, 0
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename
                mode = member.external_attr >> 16
                plain = member.is_dir() or stat.S_IFMT(mode) in (0, stat.S_IFREG)
                if unsafe := _unsafe(name, "file" if plain else "other"):
                    yield name, unsafe
                elif not member.is_dir() and name.lower().endswith(ARTICLES):
                    data = _zipped(archive, member, limit)
                    yield name, _plain(name, data, limit) if isinstance(data, bytes) else data
                    produced += len(data) if isinstance(data, bytes) else 0
                    if produced > max(_ZIP_FROM, _ZIP_RATIO * size):
                        raise DamagedError("bomb", f"unpacks to more than {_ZIP_RATIO} times its size")
    except _ZIP_ERRORS as error:
        raise DamagedError("damaged", str(error)) from error
    except OSError as error:
        raise DamagedError("unreadable", error.strerror or str(error)) from error


def _zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes | DamagedError:
    try:
        with archive.open(member) as file:
            return whole(_parts(file), limit)
    except _ZIP_ERRORS as error:
        return DamagedError("damaged", str(error))


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    while part := file.read(1 << 20):
        yield part
