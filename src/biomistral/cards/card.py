"""``biomistral card``: the README of a finished folder, as the Hugging Face hub reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomistral.artifact import Artifact, is_artifact, open_artifact
from biomistral.cards import dataset_view, model_view
from biomistral.cards.licences import Verdict, stated, together
from biomistral.cards.origin import MODELS, QUESTIONS, Origin, origin, published_names
from biomistral.cards.running import Form, form_of
from biomistral.cards.wording import render
from biomistral.errors import UserError
from biomistral.files import write_text
from biomistral.readme import README, renewed
from biomistral.recipe import canonical_hash
from biomistral.reporting.lineage import lineage_of

if TYPE_CHECKING:
    from huggingface_hub import CardData

ADAPTER = "adapter"


@dataclass(frozen=True)
class Wanted:
    """What a card is asked to say besides what the folder itself knows."""

    results: Sequence[Path] = ()
    repo: str = ""
    """The name under which it is or will be published: ``owner/name``."""
    published: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True)
class Subject:
    """What a card is about: an artifact, or the adapter inside one."""

    folder: Path
    artifact: Artifact
    form: Form | None
    """How a model lies on the disk; None of a data set."""

    @property
    def is_model(self) -> bool:
        return self.form is not None

    @property
    def is_adapter(self) -> bool:
        return self.folder != self.artifact.path

    @property
    def card(self) -> Path:
        """Where its card lies. An adapter's stands beside its folder: that folder is hashed whole where it is an input, and a
        card in it would make what was trained or evaluated with it look stale."""
        return self.artifact.path / (f"{ADAPTER}.{README}" if self.is_adapter else README)


def subject_of(folder: Path) -> Subject:
    """The artifact in a folder, or the one around an adapter's folder.

    Raises:
        UserError: nothing finished is there, or a kind of artifact that has no card.
    """
    folder = folder.absolute()
    if folder.name == ADAPTER and not is_artifact(folder) and is_artifact(folder.parent):
        return Subject(folder, open_artifact(folder.parent, "finetune"), form_of(folder))
    artifact = open_artifact(folder)
    if artifact.kind in MODELS:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: holds no model by itself (several forms, or none); name one of the folders in it")
        return Subject(folder, artifact, form_of(folder))
    if artifact.kind in ("corpus", *QUESTIONS):
        return Subject(folder, artifact, None)
    raise UserError(f"{folder}: a {artifact.kind} artifact has no card; models, corpora and benchmarks do")


def write_card(folder: Path, out: Path | None, wanted: Wanted, force: bool = False) -> Path:
    """Write the card of a folder, by default where it belongs; what people wrote around the marked part stays.

    Raises:
        UserError: see `subject_of`; a results folder is about another model; a name is no name on the hub; the README there was
            written or edited by hand; the folder is older than cards and its manifest holds the README.
    """
    subject = subject_of(folder)
    place = (out or subject.card).absolute()
    place = place / README if place.is_dir() else place
    held = subject.artifact.manifest["files"]
    if place.is_relative_to(subject.artifact.path) and place.relative_to(subject.artifact.path).as_posix() in held:
        raise UserError(f"{place}: is one of the files that the manifest holds by hash: writing it would spoil the folder; give "
                        "--out FILE, or make the folder again")
    front, part = compose_card(subject, wanted)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, renewed(place, front, part, force))
    return place


def compose_card(subject: Subject, wanted: Wanted) -> tuple[str, str]:
    """Front matter as YAML, and the text."""
    if wanted.repo and (wanted.repo.count("/") != 1 or not all(wanted.repo.split("/"))):
        raise UserError(f"--repo {wanted.repo!r}: no name on the hub; owner/name was expected")
    if wanted.results and not subject.is_model:
        raise UserError(f"--results: {subject.folder} is a {subject.artifact.kind}, which has no results; leave them out")
    node = lineage_of(subject.artifact)
    names = published_names(wanted.published)
    past = origin(node, names)
    verdict = stated(wanted.licence) if wanted.licence else together(past.parts)
    data: CardData
    if subject.is_model:
        template, view, data = model_view.build(subject, node, past, verdict, wanted, names)
    else:
        template, view, data = dataset_view.build(subject, node, past, verdict, wanted)
    return front_matter(data, subject, past, verdict), render(template, view)


def front_matter(data: "CardData", subject: Subject, past: Origin, verdict: Verdict) -> str:
    """The hub's metadata as YAML, read back by its own classes: what they would lose is our mistake."""
    from huggingface_hub import DatasetCard, ModelCard

    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    if verdict.name:
        fields["license_name"] = verdict.name
    fields["biomistral"] = {"kind": ADAPTER if subject.is_adapter else subject.artifact.kind, "key": subject.artifact.key,
                            "content": subject.artifact.manifest["content"], "parts": canonical_hash([
                                [part.what, part.licence, part.count] for part in past.parts])[:16]}
    card_class = ModelCard if subject.is_model else DatasetCard
    text = _yaml(fields)
    back = card_class(f"---\n{text}---\n").data.to_dict()  # type: ignore[no-untyped-call]
    assert back == fields, "what the hub's classes read is what was written"
    return text


def _yaml(fields: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120)
