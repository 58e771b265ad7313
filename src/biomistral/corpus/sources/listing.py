"""Which files a source consists of: names and sizes, folder by folder, in an order that depends only on the names."""

import os
from collections.abc import Iterator
from pathlib import Path

from biomistral.corpus.sources.record_files import saved_dataset_files
from biomistral.errors import UserError


def files_below(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Names, relative to the folder, and sizes of the files to read; a single file whatever its name's case."""
    if not path.is_dir():
        if path.name.lower().endswith(wanted):
            yield path.name, path.stat().st_size
        return
    for folder, entries in _folders(path):
        names = {name: size for name, size in entries if name.lower().endswith(wanted)}
        if any(name.lower().endswith(".arrow") for name in names):
            saved = saved_dataset_files(path / folder)
            if saved is not None:  # what else lies there is a cache; a file that is missing is refused when it is read
                others = {name: size for name, size in names.items() if not name.lower().endswith(".arrow")}
                names = others | {name: names.get(name, 0) for name in saved}
        for name in sorted(names):
            yield os.path.join(folder, name), names[name]


def _folders(path: Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Every folder below, itself first, in order, with the names and sizes in it; links to folders are not followed."""
    pending = [""]
    while pending:
        folder = pending.pop()
        files, folders = [], []
        try:
            with os.scandir(path / folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(os.path.join(folder, entry.name))
                    elif not _leads_to_folder(entry):
                        files.append((entry.name, _size(entry)))
        except OSError as error:
            raise UserError(f"{path / folder}: cannot be listed ({error.strerror}); permit reading it, or take it out") from error
        yield folder, files
        pending += sorted(folders, reverse=True)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere: refused when it is read
        return 0
