"""A plan in words and as data, for ``--plan``: every tensor, its inputs and parameters, memory, bytes, room on the disk."""

from pathlib import Path
from typing import Any

from biomistral.merging.catalogue import Variants
from biomistral.merging.engine import operator_for
from biomistral.merging.plan import Plan
from biomistral.merging.planned import PlannedInput, PlannedTensor

GB = 1e9


def needs(plan: Plan, variants: Variants, workers: int, free: int) -> dict[str, int]:
    """Bytes: of the inputs, read in all (some methods read twice), written, worked in by every thread, free on the disk."""
    read = sum((1 + operator_for(tensor, variants=variants).passes) * sum(source.nbytes for source in tensor.inputs)
               for tensor in plan.tensors)
    return {"inputs": plan.bytes_read, "read": read, "written": plan.bytes_written, "memory": plan.working_bytes * workers,
            "threads": workers, "free": free}


def as_data(plan: Plan, need: dict[str, int]) -> dict[str, Any]:
    """The whole plan as plain data, a row a tensor."""
    return {"method": plan.merge.config.merge_method, "base": plan.base.name,
            "models": [{"name": name, "folder": str(model.folder), "layers": model.depth} for name, model in plan.models.items()],
            "layers": plan.depth, "parameters": sum(tensor.numel for tensor in plan.tensors), "bytes": need,
            "fitted_layers": plan.fitted or None, "notes": plan.notes, "tensors": list(map(_tensor, plan.tensors))}


def _tensor(tensor: PlannedTensor) -> dict[str, Any]:
    return {"name": tensor.name, "method": tensor.method, "shape": list(tensor.shape), "dtype": tensor.dtype.value,
            "out_dtype": tensor.out_dtype.value, "parameters": tensor.parameters, "inputs": list(map(_input, tensor.inputs))}


def _input(source: PlannedInput) -> dict[str, Any]:
    return {"model": source.model, "tensor": source.tensor, "file": str(source.stored.file), "shape": list(source.stored.shape),
            "dtype": source.stored.dtype.value, "parameters": source.parameters,
            "seen_as": None if source.view is None else type(source.view).__name__.lower()}


def describe(plan: Plan, need: dict[str, int], where: Path) -> str:
    """The plan as text: inputs, sizes, notes, then one line for each kind of tensor with the parameters that vary."""
    config = plan.merge.config
    millions = sum(tensor.numel for tensor in plan.tensors) / 1e6
    size = f"{plan.depth} layers, {len(plan.tensors)} tensors, {millions:,.1f} M parameters"
    lines = [f"{config.merge_method} of {len(plan.models)} models: {size}"]
    lines += [f"  {'base' if model is plan.base else '    '} {name}: {model.folder} ({model.depth} layers)"
              for name, model in plan.models.items()]
    again = f" ({need['read'] / GB:.2f} GB with second readings)" if need["read"] > need["inputs"] else ""
    threads = f"{need['threads']} threads" if need["threads"] > 1 else "one thread"
    lines += [f"reads {need['inputs'] / GB:.2f} GB{again}, writes {need['written'] / GB:.2f} GB; "
              f"{need['free'] / GB:.2f} GB are free in {where}",
              f"works in {need['memory'] / 1e6:.0f} MB with {threads}, beside Python and its packages"]
    if plan.fitted:
        lines.append(f"layer_range {plan.fitted['from']} fitted to {plan.fitted['to']}")
    lines += [f"note: {note}" for note in plan.notes]
    constant = {name: values[0] for name, values in _settings(plan.tensors).items() if len(set(values)) == 1}
    if constant:
        lines.append("every tensor: " + ", ".join(f"{name} {_short(value)}" for name, value in constant.items()))
    return "\n".join([*lines, *(_kind(name, shape, tensors, constant) for (name, shape), tensors in _kinds(plan).items())])


def _kind(name: str, shape: tuple[int, ...], tensors: list[PlannedTensor], constant: dict[str, Any]) -> str:
    """``32 x model.layers.*.mlp.up_proj.weight [14336, 4096] bfloat16 -> float16: t 0 0.5 1``"""
    types = [f"{tensor.dtype.value} -> {tensor.out_dtype.value}" if tensor.dtype != tensor.out_dtype else tensor.dtype.value
             for tensor in tensors]
    said = [f"{key} {' '.join(map(_short, values if len(set(values)) > 1 else values[:1]))}"
            for key, values in _settings(tensors).items() if key not in constant]
    return f"  {len(tensors)} x {name} {list(shape)} {', '.join(dict.fromkeys(types))}" + (": " + ", ".join(said) if said else "")


def _kinds(plan: Plan) -> dict[tuple[str, tuple[int, ...]], list[PlannedTensor]]:
    """Tensors that differ only in their layer, together."""
    kinds: dict[tuple[str, tuple[int, ...]], list[PlannedTensor]] = {}
    stack = plan.base.stack + "."
    for tensor in plan.tensors:
        _, layer, rest = tensor.name.removeprefix(stack).partition(".")
        name = f"{stack}*.{rest}" if tensor.name.startswith(stack) and layer else tensor.name
        kinds.setdefault((name, tensor.shape), []).append(tensor)
    return kinds


def _settings(tensors: list[PlannedTensor]) -> dict[str, list[Any]]:
    """Every parameter's values over the tensors, in order; those of one model carry its name."""
    said: dict[str, list[Any]] = {}
    for tensor in tensors:
        for name, value in tensor.parameters.items():
            said.setdefault(name, []).append(value)
        for source in tensor.inputs:
            for name, value in source.parameters.items():
                said.setdefault(f"{name} of {source.model}", []).append(value)
    return said


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()
