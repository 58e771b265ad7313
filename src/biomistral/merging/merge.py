"""The ``merge`` stage: plan, check the disk, stream the weights, and put the rest of a model folder beside them."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.merging.plan import Plan, plan_merge
from biomistral.merging.settings import MergeSettings
from biomistral.merging.stream import remove_journal, stream
from biomistral.merging.writer import write_index
from biomistral.models.save import copy_tokenizer
from biomistral.progress import log


def plan_of(settings: MergeSettings, locate: Callable[[str], Path]) -> Plan:
    """The plan of a merge, without doing any of it (``--plan``).

    Raises:
        UserError: the file or the models do not allow the merge.
    """
    folders = {name: locate(place) for name, place in settings.models.items()}
    return plan_merge(locate(settings.config), folders, settings.fit_layers)


def merge_models(work: Workspace) -> None:
    """Make the merged model in ``work.path``."""
    settings: MergeSettings = work.settings
    plan = plan_of(settings, work.locate)
    check_disk(plan, work.path)
    for note in plan.notes:
        log.warning(note)
    layout, rows = stream(plan, work.path, settings.seed, settings.dare_rescale, settings.max_shard_bytes)
    write_index(work.path, layout)
    _write_config(plan, work.path)
    _write_tokenizer(plan, work.path)
    facts = _summary(plan, rows)
    write_json(work.path / "merge.json", {**facts, "notes": plan.notes, "tensors": rows})
    work.counts |= {"tensors": len(rows), "parameters": sum(tensor.numel for tensor in plan.tensors), "layers": plan.depth}
    work.facts |= facts
    for model in plan.models.values():
        if is_artifact(model.folder):
            work.licences |= open_artifact(model.folder).manifest["licences"]
    remove_journal(work.path)


def check_disk(plan: Plan, folder: Path) -> None:
    """Whether the result fits; what an earlier, interrupted run already wrote counts as there.

    Raises:
        UserError: it does not.
    """
    written = sum(path.stat().st_blocks * 512 for path in folder.glob("*.safetensors"))
    needed, free = plan.bytes_written - written, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder.parent}: the merged model needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free on "
                        "this disk; free some or choose another --out")


def _write_config(plan: Plan, folder: Path) -> None:
    """The base's config, with the type written and, where layers were cut or stacked, their number."""
    config = dict(plan.base.config)
    types = {tensor.out_dtype for tensor in plan.tensors}
    if len(types) == 1:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(types.pop()).removeprefix("torch.")
    if plan.depth != plan.base.depth:
        config["n_layer" if "n_layer" in config else "num_hidden_layers"] = plan.depth
        if "layer_types" in config:
            config["layer_types"] = plan.layer_types
    write_json(folder / "config.json", config)


def _write_tokenizer(plan: Plan, folder: Path) -> None:
    source, template = plan.merge.config.tokenizer_source, plan.merge.config.chat_template
    chosen = plan.base if source in (None, "base") else plan.models[str(source)]
    copy_tokenizer(chosen.folder, folder)
    if not (folder / "generation_config.json").is_file() and (plan.base.folder / "generation_config.json").is_file():
        shutil.copyfile(plan.base.folder / "generation_config.json", folder / "generation_config.json")
    if template is not None:
        text = _common_template(plan) if template == "auto" else template
        if text is not None:
            write_text(folder / "chat_template.jinja", text)
            _drop_inline_template(folder / "tokenizer_config.json")


def chat_template(folder: Path) -> str | None:
    """The chat template of a model folder, from its own file or from the tokenizer's config."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    inline = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
    return inline if isinstance(inline, str) else None


def _common_template(plan: Plan) -> str | None:
    """The template most models have; of equally common ones the base's, then the first named."""
    templates = [text for model in plan.models.values() if (text := chat_template(model.folder)) is not None]
    return max(templates, key=templates.count, default=None)


def _drop_inline_template(path: Path) -> None:
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("chat_template", None) is not None:
            write_json(path, config)


def _summary(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was done, in a few numbers; averages are weighted by the tensors' sizes."""
    sizes = [tensor.numel for tensor in plan.tensors]

    def mean(values: list[float | None]) -> float | None:
        known = [(value, size) for value, size in zip(values, sizes, strict=True) if value is not None]
        return math.fsum(value * size for value, size in known) / sum(size for _, size in known) if known else None

    config = plan.merge.config
    facts: dict[str, Any] = {"method": config.merge_method, "base": plan.base.name, "models": list(plan.models),
                             "dtype": sorted({str(tensor.out_dtype).removeprefix("torch.") for tensor in plan.tensors}),
                             "drift": {name: mean([row["drift"].get(name) for row in rows]) for name in plan.models}}
    if plan.fitted:
        facts["fitted_layers"] = plan.fitted
    if "branch" in rows[0]:
        facts["branches"] = {name: sum(row["branch"] == name for row in rows) for name in ("slerp", "lerp")}
    if "kept" in rows[0]:
        others = [source.model for source in plan.tensors[0].inputs[1:]]
        facts["kept"] = {name: mean([row["kept"][index] for row in rows]) for index, name in enumerate(others)}
        facts["sign_conflicts"] = mean([row["sign_conflicts"] for row in rows])
    return facts
