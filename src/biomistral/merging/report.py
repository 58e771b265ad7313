"""What a merge reports: its file, its inputs by hash with their licences, a summary, and a row a tensor (``merge.json``)."""

import math
from pathlib import Path
from typing import Any

from biomistral.artifact import input_key, is_artifact, open_artifact
from biomistral.merging.plan import Plan
from biomistral.readme import stated_licence


def summary(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was done, in a few numbers; averages are weighted by the tensors' sizes."""
    sizes = [tensor.numel for tensor in plan.tensors]

    def mean(values: list[float | None]) -> float | None:
        known = [(value, size) for value, size in zip(values, sizes, strict=True) if value is not None]
        return math.fsum(value * size for value, size in known) / sum(size for _, size in known) if known else None

    config = plan.merge.config
    facts: dict[str, Any] = {"method": config.merge_method, "base": plan.base.name, "models": list(plan.models),
                             "dtype": sorted({tensor.out_dtype.value for tensor in plan.tensors}),
                             "drift": {name: mean([row["drift"].get(name) for row in rows]) for name in plan.models}}
    if plan.fitted:
        facts["fitted_layers"] = plan.fitted
    if branches := [row["branch"] for row in rows if "branch" in row]:
        facts["branches"] = {name: branches.count(name) for name in ("slerp", "lerp")}
    if any("kept" in row for row in rows):
        kept = [dict(zip((source.model for source in tensor.inputs[1:]), row.get("kept", ()), strict=False))
                for tensor, row in zip(plan.tensors, rows, strict=True)]
        facts["kept"] = {name: mean([row.get(name) for row in kept]) for name in plan.models if any(name in row for row in kept)}
        facts["sign_conflicts"] = mean([row.get("sign_conflicts") for row in rows])
    if zero := [row["name"] for row in rows if "zero" in row]:
        facts["zero_tensors"] = zero
    return facts


def inputs_of(places: dict[str, Path]) -> list[dict[str, Any]]:
    """Name, hash and licence of every model and adapter that went in; a licence nobody stated is None."""
    return [{"name": name, "key": input_key(folder), "licence": licence_of(folder)} for name, folder in places.items()]


def licence_of(folder: Path) -> str | None:
    """The licence of a model folder: what its manifest counts, else what its model card states."""
    if is_artifact(folder):
        counted = open_artifact(folder).manifest["licences"]
        return ", ".join(sorted(name for name, number in counted.items() if number)) or None
    return stated_licence(folder)
