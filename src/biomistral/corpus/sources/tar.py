"""Tar archives read as a stream: ustar, GNU and pax names, each header's checksum verified, memory bounded.

The standard library's reader stops without a word at a damaged header, keeps an object a member (1 GB for half a
million), and reads headers of any size into memory; this one reports, forgets and limits, at a third of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from biomistral.corpus.sources.streams import DamagedError, Stream

_BLOCK = 512
_MOST_HEADER = 1 << 20
_FILES, _FOLDER, _NO_DATA = (b"0", b"\0", b"7"), b"5", (b"1", b"2", b"3", b"4", b"5", b"6")
_PAX, _LONG_NAME, _LONG_LINK, _GLOBAL, _SPARSE = (b"x", b"X"), b"L", b"K", b"g", b"S"


@dataclass(frozen=True)
class Member:
    """An entry: its path as the archive gives it (as `os.fsdecode` would read it), its size in bytes, and what it is."""

    name: str
    size: int
    kind: str
    """``file``; ``folder``, or anything else without an article; ``other``: a link, a device, or a file with holes."""


class TarReader:
    """The members of a tar stream, in order; `read` gives the data of the one just yielded."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Raises DamagedError where the archive is cut off or wrong; archives that were joined are read on."""
        ended, first = False, True
        while header := self._next_block():
            if not any(header):
                ended = True
                continue
            if not _is_header(header):
                raise DamagedError("damaged", "this is not a tar archive" if first else "a header's checksum is wrong")
            first = ended = False
            yield self._member(header)
        if self._stream.damage:
            raise self._stream.damage
        if not ended and not first:
            raise DamagedError("truncated", "the archive has no end")

    def read(self) -> bytes:
        """The data of the member just yielded."""
        data = self._stream.read(self._left)
        if len(data) < self._left:
            raise self._cut()
        self._left = 0
        return data

    def _cut(self) -> DamagedError:
        return self._stream.damage or DamagedError("truncated", "the archive ends inside a member")

    def _next_block(self) -> bytes:
        if not self._stream.skip(self._left + self._padding):
            raise self._cut()
        self._left = self._padding = 0
        block = self._stream.read(_BLOCK)
        if 0 < len(block) < _BLOCK:
            raise self._cut()
        return block

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    def _member(self, header: bytes) -> Member:
        """The member of a header and of the long names before it."""
        name, pax = b"", dict[bytes, bytes]()
        while (kind := header[156:157]) in (*_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK):
            size = _number(header[124:136])
            if size > _MOST_HEADER:
                raise DamagedError("damaged", f"a header of {size} bytes")
            self._expect(size)
            data = self.read()
            if kind in _PAX:
                pax |= _pax(data)
            elif kind == _LONG_NAME:
                name = data.partition(b"\0")[0]
            header = self._next_block()
            if not _is_header(header):
                raise DamagedError("damaged", "a header's checksum is wrong") if header else self._cut()
        size = _pax_size(pax) if b"size" in pax else _number(header[124:136])
        sparse = kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in pax)
        if kind == _SPARSE:
            self._pass_map(header)
        self._expect(0 if kind in _NO_DATA else size)
        path = (pax.get(b"path") or name or _name(header)).decode("utf-8", "surrogateescape")
        return Member(path, size, _kind(kind, header, sparse))

    def _pass_map(self, header: bytes) -> None:
        """Blocks that continue the map of an old GNU file with holes."""
        more = header[482]
        while more:
            block = self._next_block()
            if not block:
                raise self._cut()
            more = block[504]


def _is_header(block: bytes) -> bool:
    if len(block) < _BLOCK:
        return False
    stated = block[148:156].strip(b" \0")
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    try:
        return int(stated or b"0", 8) in (plain, plain - 256 * sum(byte > 127 for byte in block))  # old tars add signed bytes
    except ValueError:
        return False


def _number(field: bytes) -> int:
    """A size: octal digits, or base 256 after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DamagedError("damaged", "a header without a size") from error


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _text(name: bytes) -> str:
    """A name that any table can hold: bytes that are not UTF-8 are written as \\xNN."""
    return name.decode("utf-8", "backslashreplace")


def _kind(kind: bytes, header: bytes, sparse: bool) -> str:
    if sparse or (kind in _NO_DATA and kind != _FOLDER):
        return "other"
    return "file" if kind in _FILES and not _name(header).endswith(b"/") else "folder"


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records ``LENGTH KEY=VALUE\\n``; LENGTH counts the whole record."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        length, space, _ = data[at:at + 20].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(data) - at:
            raise DamagedError("damaged", "an extended header that cannot be read")
        key, _, value = data[at + len(length) + 1:at + int(length) - 1].partition(b"=")
        found[key] = value
        at += int(length)
    return found


def _pax_size(pax: dict[bytes, bytes]) -> int:
    if not pax[b"size"].isdigit() or len(pax[b"size"]) > 19:
        raise DamagedError("damaged", "an extended header without a size")
    return int(pax[b"size"])
