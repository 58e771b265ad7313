"""How bulk packages lie on a server: NCBI's ``oa_bulk`` area and Europe PMC's, read from their directory pages."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

Subset = Literal["oa_comm", "oa_noncomm", "oa_other", "europe_pmc"]
Packages = Literal["baseline", "incremental", "all"]
NCBI = "https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_bulk"
EUROPE_PMC = "https://europepmc.org/ftp/oa"
_LINK = re.compile(r"<a\s[^>]*?href\s*=\s*[\"']([^\"'>]+)[\"'][^>]*>[^<]*</a>((?:\s|&nbsp;|</?t[dh][^>]*>|[\w.:-])*+)", re.I)
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d|\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Listed:
    """A file of a directory page."""

    name: str
    date: str
    """As the page writes it."""
    size: int
    """Bytes, as exact as the page (pages round); 0 if it gives none."""


@dataclass(frozen=True)
class Package:
    """A package, and the files that belong to it: the list of its articles, a checksum."""

    file: Listed
    kind: Literal["baseline", "incremental"]
    date: str
    """Of the package, from its name: ``YYYY-MM-DD``; Europe PMC's have none."""
    filelist: Listed | None = None
    checksum: Listed | None = None


def folder_url(base: str | None, subset: Subset) -> str:
    """The directory of a subset's packages below ``base``, which may also be that directory itself."""
    if subset == "europe_pmc":
        return (base or EUROPE_PMC).rstrip("/") + "/"
    base = (base or NCBI).rstrip("/")
    return base + "/" if base.endswith("/xml") else f"{base}/{subset}/xml/"


def read_page(page: str) -> dict[str, Listed]:
    """The files a directory page links to (Apache's and nginx' pages, plain or as a table); folders and addresses are not."""
    found = {}
    for link, rest in _LINK.findall(page):
        name = unquote(html.unescape(link)).removeprefix("./")
        if "/" in name or "?" in name or name.startswith("."):
            continue
        words = " ".join(re.sub(r"<[^>]*>|&nbsp;", " ", rest).split())
        date = _DATE.search(words)
        size = _SIZE.fullmatch(words[date.end():].strip().split(" ")[0]) if date else None
        found[name] = Listed(name, date[0] if date else "", int(float(size[1]) * _UNITS[size[2]]) if size else 0)
    return found


def packages_of(files: dict[str, Listed], subset: Subset) -> list[Package]:
    """The packages among files: baselines in order, of several of one range the newest; then incremental ones by date."""
    if subset == "europe_pmc":
        names = re.compile(r"PMC(\d+)_PMC\d+\.xml\.gz")
        ranges = sorted((int(match[1]), name) for name in files if (match := names.fullmatch(name)))
        return [Package(files[name], "baseline", "", None, _checksum(files, name)) for _, name in ranges]
    baseline = re.compile(rf"{subset}_xml\.(PMC\d+x+)\.baseline\.(\d{{4}}-\d\d-\d\d)\.tar\.gz")
    incremental = re.compile(rf"{subset}_xml\.incr\.(\d{{4}}-\d\d-\d\d)\.tar\.gz")
    newest: dict[str, Package] = {}
    for name in sorted(files):
        if (match := baseline.fullmatch(name)) and (match[1] not in newest or newest[match[1]].date < match[2]):
            newest[match[1]] = Package(files[name], "baseline", match[2], _file_list(files, name), _checksum(files, name))
    increments = [Package(files[name], "incremental", match[1], _file_list(files, name), _checksum(files, name))
                  for name in sorted(files) if (match := incremental.fullmatch(name))]
    return [newest[part] for part in sorted(newest)] + increments


def _file_list(files: dict[str, Listed], name: str) -> Listed | None:
    stem = name.removesuffix(".tar.gz")
    return files.get(f"{stem}.filelist.csv") or files.get(f"{stem}.filelist.txt")


def _checksum(files: dict[str, Listed], name: str) -> Listed | None:
    """NCBI's bulk area has none; mirrors may."""
    return files.get(f"{name}.md5")


def choose(packages: Iterable[Package], since: str | None, kinds: Packages) -> list[Package]:
    """Packages of the wanted kinds; of the incremental ones those of ``since`` (``YYYY-MM-DD``) and later."""
    return [package for package in packages if kinds in ("all", package.kind)
            and (package.kind == "baseline" or since is None or package.date >= since)]
