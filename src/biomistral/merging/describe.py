"""A plan in words, for ``--plan``."""

from typing import Any

from biomistral.merging.plan import Plan, PlannedTensor


def describe(plan: Plan) -> str:
    """The plan as text: inputs, sizes, notes, then one line for each kind of tensor with the parameters that vary."""
    config, gb = plan.merge.config, 1e9
    millions = sum(tensor.numel for tensor in plan.tensors) / 1e6
    size = f"{plan.depth} layers, {len(plan.tensors)} tensors, {millions:,.1f} M parameters"
    lines = [f"{config.merge_method} of {len(plan.models)} models: {size}"]
    lines += [f"  {'base' if model is plan.base else '    '} {name}: {model.folder} ({model.depth} layers)"
              for name, model in plan.models.items()]
    lines.append(f"reads {plan.bytes_read / gb:.2f} GB, writes {plan.bytes_written / gb:.2f} GB, "
                 f"works in {plan.working_bytes / 1e6:.0f} MB")
    if plan.fitted:
        lines.append(f"layer_range {plan.fitted['from']} fitted to {plan.fitted['to']}")
    lines += [f"note: {note}" for note in plan.notes]
    constant = {name: values[0] for name, values in _settings(plan.tensors).items() if len(set(values)) == 1}
    if constant:
        lines.append("every tensor: " + ", ".join(f"{name} {_short(value)}" for name, value in constant.items()))
    for (name, shape), tensors in _kinds(plan).items():
        varying = {key: values for key, values in _settings(tensors).items() if key not in constant}
        said = [f"{key} {' '.join(map(_short, values if len(set(values)) > 1 else values[:1]))}"
                for key, values in varying.items()]
        lines.append(f"  {len(tensors)} x {name} {list(shape)}" + (": " + ", ".join(said) if said else ""))
    return "\n".join(lines)


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
