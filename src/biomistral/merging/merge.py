"""The ``merge`` stage: plan, check the disk, stream the weights, and put the rest of a model folder beside them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.merging.card import card
from biomistral.merging.catalogue import Variants
from biomistral.merging.describe import as_data, describe, needs
from biomistral.merging.plan import Plan, plan_merge
from biomistral.merging.report import inputs_of, summary
from biomistral.merging.settings import MergeSettings
from biomistral.merging.stream import num_workers, remove_journal, stream
from biomistral.merging.survey import check_variants
from biomistral.merging.tokenizer import check_template, vocabulary_settings, write_tokenizer
from biomistral.merging.writer import write_index
from biomistral.progress import log


def plan_of(settings: MergeSettings, locate: Callable[[str], Path]) -> Plan:
    """The plan of a merge, without doing any of it (``--plan``).

    Raises:
        UserError: the file or the models do not allow the merge.
    """
    folders = {name: locate(place) for name, place in settings.models.items()}
    plan = plan_merge(locate(settings.config), folders, settings.fit_layers, settings.dtype)
    check_variants(plan, variants_of(settings))
    check_template(plan)
    return plan


def planned(settings: MergeSettings, locate: Callable[[str], Path], out: Path, workers: int) -> tuple[dict[str, Any], str]:
    """``--plan``: the plan as data and as text, with nothing written.

    Raises:
        UserError: what the merge itself would refuse before its first byte, a disk without room included.
    """
    plan = plan_of(settings, locate)
    check_disk(plan, out)
    where, free = room(out)
    need = needs(plan, variants_of(settings), num_workers(workers), free)
    return as_data(plan, need), describe(plan, need, where)


def variants_of(settings: MergeSettings) -> Variants:
    """Which forms of the methods the settings ask for."""
    return Variants(settings.dare_rescale, settings.ties_trim, settings.slerp_over)


def device_for(asked: str) -> str:
    """Where the arithmetic is done: on the CPU unless a GPU is named, since the files take longer than the arithmetic.

    Raises:
        UserError: the device named is not on this machine.
    """
    if asked in ("auto", "cpu"):
        return "cpu"
    from biomistral.models.load import pick_device

    return str(pick_device(asked))


def merge_models(work: Workspace) -> None:
    """Make the merged model in ``work.path``."""
    settings: MergeSettings = work.settings
    plan = plan_of(settings, work.locate)
    check_disk(plan, work.path)
    for note in plan.notes:
        log.warning(note)
    layout, rows = stream(plan, work.path, settings.seed, variants_of(settings), settings.max_shard_bytes,
                          workers=work.machine.workers, device=device_for(work.machine.device))
    write_index(work.path, layout)
    _write_config(plan, work.path)
    write_tokenizer(plan, work.path)
    facts = summary(plan, rows)
    if zero := facts.get("zero_tensors"):
        log.warning("%d tensors are all zeros in the result or in an input, the first %s: merge.json lists them",
                    len(zero), zero[0])
    folders = {name: work.locate(place) for name, place in settings.models.items()}
    inputs = inputs_of(folders)
    text = plan.merge.document.path.read_text(encoding="utf-8")
    write_json(work.path / "merge.json", {**facts, "inputs": inputs, "file": text, "notes": plan.notes, "tensors": rows})
    write_text(work.path / "README.md", card(plan, facts, inputs, rows, settings.models, folders))
    work.counts |= {"tensors": len(rows), "parameters": sum(tensor.numel for tensor in plan.tensors), "layers": plan.depth}
    work.facts |= facts
    for model in plan.models.values():
        if is_artifact(model.folder):
            work.licences |= open_artifact(model.folder).manifest["licences"]
    remove_journal(work.path)


def room(folder: Path) -> tuple[Path, int]:
    """The disk a folder is or will be on: the nearest folder that exists, and the bytes free there."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return there, shutil.disk_usage(there).free


def check_disk(plan: Plan, folder: Path) -> None:
    """Whether the result fits; what an earlier, interrupted run already wrote counts as there.

    Raises:
        UserError: it does not.
    """
    written = sum(path.stat().st_blocks * 512 for path in folder.glob("*.safetensors"))
    needed, (_, free) = plan.bytes_written - written, room(folder)
    if needed > free:
        raise UserError(f"{folder.parent}: the merged model needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free on "
                        "this disk; free some or choose another --out")


def _write_config(plan: Plan, folder: Path) -> None:
    """The base's config, with the type written and, where they are not the base's, the vocabulary and the number of layers."""
    config = plan.base.config | vocabulary_settings(plan)
    types = {tensor.out_dtype for tensor in plan.tensors}
    if len(types) == 1:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = types.pop().value
    if plan.depth != plan.base.depth:
        config["n_layer" if "n_layer" in config else "num_hidden_layers"] = plan.depth
        if "layer_types" in config:
            config["layer_types"] = plan.layer_types
    write_json(folder / "config.json", config)
