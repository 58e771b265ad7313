"""What publishing a folder would send, and everything that speaks against it. Nothing here touches the network."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from yaml import YAMLError

from biomistral.artifact import MANIFEST, verify
from biomistral.cards.card import ADAPTER, Subject, subject_of
from biomistral.cards.licences import forbidden, together
from biomistral.cards.origin import Origin, attribution_of, origin
from biomistral.errors import UserError
from biomistral.publishing.manifest import as_bytes
from biomistral.publishing.secrets import secrets_in
from biomistral.readme import README, front_matter
from biomistral.reporting.lineage import lineage_of

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_LONGEST_NAME = 96
"""Characters, as the hub has it."""


@dataclass(frozen=True)
class File:
    """A file of the repository: what it is called there, where it lies here, or its bytes."""

    name: str
    source: Path | bytes
    size: int
    blake3: str | None
    """As the manifest has it; None of the card, the manifest and attribution files."""


@dataclass(frozen=True)
class Plan:
    """``problems`` forbid it, ``warnings`` do not."""

    repo: str
    kind: Literal["model", "dataset"]
    public: bool
    files: list[File]
    licence: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def make_plan(folder: Path, repo: str, public: bool, rights: bool) -> Plan:
    """Look at everything: files against the manifest, strays, secrets, card, licences.

    Raises:
        UserError: nothing finished is there, or ``repo`` is no name.
    """
    _check_name(repo)
    subject = subject_of(folder)
    past = origin(lineage_of(subject.artifact), {})
    files = [*_held(subject), *_papers(subject, past)]
    front = front_matter(subject.card)
    problems = [*verify(subject.artifact), *_strays(subject), *_secrets(files), *_card_problems(subject, front, past)]
    warnings = _machine_names(subject, files)
    against = [*(forbidden(past.parts) if not subject.is_model else []), *(_unknown(past, front) if public else [])]
    if against and not rights:
        problems.append(f"licences: {'; '.join(against)}; if you have the right to publish it all the same, say so with --rights")
    warnings += against if rights else []
    stated = str(front.get("license", "none")) + (f" ({front['license_name']})" if front.get("license_name") else "")
    computed = together(past.parts)
    if front and front.get("license") != computed.id:
        warnings.append(f"the card states {stated}; what went in gives {computed.id}")
    return Plan(repo, "model" if subject.is_model else "dataset", public, files, stated, problems, warnings)


def _check_name(repo: str) -> None:
    owner, slash, name = repo.partition("/")
    if not slash or not owner:
        raise UserError(f"--to {repo}: whose is it? owner/name was expected")
    if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UserError(f"--to {repo}: no name on the hub; owner/name was expected, of letters, digits and -_.")


def _held(subject: Subject) -> Iterator[File]:
    """The files that the manifest holds; of an adapter only its own."""
    prefix = f"{subject.folder.name}/" if subject.is_adapter else ""
    for name, entry in subject.artifact.manifest["files"].items():
        path = subject.artifact.path / name
        if name.startswith(prefix) and path.is_file():
            yield File(name.removeprefix(prefix), path, path.stat().st_size, entry["blake3"])


def _papers(subject: Subject, past: Origin) -> Iterator[File]:
    """Card, manifest, and who wrote the texts that a model was trained on."""
    if subject.card.is_file() and subject.card.name not in subject.artifact.manifest["files"]:
        yield File(README, subject.card, subject.card.stat().st_size, None)
    if not subject.is_adapter:
        data = as_bytes(subject.artifact.manifest)
        yield File(MANIFEST, data, len(data), None)
    for name, path in filter(None, map(attribution_of, past.corpora if subject.is_model else [])):
        yield File(name, path, path.stat().st_size, None)


def _strays(subject: Subject) -> Iterator[str]:
    """Whatever lies in the folder and is not what the stage wrote; a link may lead anywhere."""
    root = subject.artifact.path
    known = {*subject.artifact.manifest["files"], MANIFEST, README, f"{ADAPTER}.{README}"}
    for place, folders, names in os.walk(root):
        for name in sorted([*names, *(folder for folder in folders if (Path(place) / folder).is_symlink())]):
            path = Path(place) / name
            if path.is_symlink():
                yield f"{path}: is a link; put the file itself there"
            elif path.relative_to(root).as_posix() not in known:
                yield f"{path}: was not written by the stage that made this folder; move it away"


def _secrets(files: list[File]) -> Iterator[str]:
    for file in files:
        if isinstance(file.source, Path):
            yield from (f"{file.source}: holds {kind}; take it out, and withdraw it where it is valid"
                        for kind in secrets_in(file.source))


def _card_problems(subject: Subject, front: dict[str, Any], past: Origin) -> Iterator[str]:
    """A card must be there, be read by the hub's classes, state a licence, and be about this very folder."""
    from huggingface_hub import DatasetCard, ModelCard

    path = subject.card
    if not path.is_file():
        yield f"{path}: there is no card; write it with: biomistral card {subject.folder}"
        return
    try:
        (ModelCard if subject.is_model else DatasetCard)(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, YAMLError) as error:  # what the hub's classes raise at metadata they cannot take
        yield f"{path}: the hub's classes cannot read its metadata ({' '.join(str(error).split())[:200]}); write the card again"
        return
    if not front.get("license"):
        yield f"{path}: states no licence; write the card again, or add 'license:' to its front matter"
    about = front.get("biomistral")
    if isinstance(about, dict) and (about.get("key"), about.get("content")) != (
            subject.artifact.key, subject.artifact.manifest["content"]):
        yield f"{path}: is about another folder; write it again with: biomistral card {subject.folder}"


def _unknown(past: Origin, front: dict[str, Any]) -> list[str]:
    """Works of unknown licence, unless the card states one by whoever made it."""
    return list(together(past.parts).unknown) if front.get("license") in (None, "other") else []


def _machine_names(subject: Subject, files: list[File]) -> list[str]:
    """Small text files that name folders of this machine: they are held by hash and cannot be mended here."""
    recorded = {str(Path(entry["path"]).parent) for entry in subject.artifact.manifest["inputs"]} | {str(Path.home())}
    wanted = [f"{place}/".encode() for place in recorded if place.count("/") > 1]
    return [f"{file.name} names a folder of this machine" for file in files
            if isinstance(file.source, Path) and file.source.suffix in (".json", ".md", ".yaml", "") and file.size < 1 << 22
            and any(place in file.source.read_bytes() for place in wanted)]
