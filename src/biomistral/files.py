"""Files: content hashes, and small files written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from biomistral.recipe import canonical_hash, plain

_CHUNK = 1 << 22
_CACHE_FROM_BYTES = 32 << 20


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biomistral"


def _digest_cache(path: Path) -> Path:
    """Where the digest of a large file is remembered: named by place, size and times, so a changed file is read again."""
    stat = path.stat()
    known = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return cache_folder() / "blake3" / canonical_hash(known)


def file_digest(path: Path) -> str:
    """BLAKE3 of a file (a third of SHA-256's time and as hard to fool); those over 32 MB are remembered until they change."""
    remembered = _digest_cache(path) if path.stat().st_size >= _CACHE_FROM_BYTES else None
    if remembered is not None and remembered.is_file():
        return remembered.read_text()
    digest = blake3()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    remember_digest(path, digest.hexdigest())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, for records that people check with other tools."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remember_digest(path: Path, digest: str) -> None:
    """Keep the BLAKE3 of a large file, for who took it while writing the file: `file_digest` reads it no more."""
    if path.stat().st_size < _CACHE_FROM_BYTES:
        return
    remembered = _digest_cache(path)
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_text(remembered, digest)
    except OSError:  # a read-only home only costs time
        pass


def files_under(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder, in sorted order, without lock and byte-code files."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock" and "__pycache__" not in path.parts:
            yield path


def content_digest(path: Path) -> str:
    """BLAKE3 of what a file or a folder holds, whatever its place."""
    if path.is_file():
        return file_digest(path)
    return canonical_hash({file.relative_to(path).as_posix(): file_digest(file) for file in files_under(path)})


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all: temporary sibling, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, whole or not at all. NaN is refused: JSON has no such number."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
