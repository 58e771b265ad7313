"""TIES' trim over a model's whole task vector (``ties_trim: model``): one reading of all tensors before the first is merged.

As in the TIES authors' code, the threshold is the k-th largest magnitude of the vector, and all that reaches it stays.
"""

from biomistral.errors import UserError
from biomistral.merging.blocks import chunks
from biomistral.merging.catalogue import METHODS, Variants
from biomistral.merging.checkpoint import Reader
from biomistral.merging.floats import magnitudes, narrow, widen
from biomistral.merging.plan import Plan
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.scalars import Ranking, num_kept
from biomistral.merging.views import read_inputs
from biomistral.progress import bar


def check_variants(plan: Plan, variants: Variants) -> None:
    """Whether the papers' variants that were asked for can be had.

    Raises:
        UserError: a whole-vector trim of tensors that differ in density, or in the type they are computed in.
    """
    tensors = _trimmed(plan, variants)
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise UserError(f"{plan.merge.document.path}: ties_trim 'model' compares magnitudes over all tensors, so all must be "
                        "computed in one type; write a dtype")
    for model, densities in _densities(tensors).items():
        if len(densities) > 1:
            raise UserError(f"{plan.merge.document.path}: ties_trim 'model' takes one density for the whole of '{model}', found "
                            f"{', '.join(f'{density:g}' for density in sorted(densities))}; remove filters and gradients, or "
                            "trim by tensor")


def find_thresholds(plan: Plan, variants: Variants, reader: Reader, chunk: int) -> dict[str, int]:
    """The magnitude, as `floats.magnitudes` has it, that each model's task vector is trimmed at; a model that keeps
    everything has none."""
    tensors = _trimmed(plan, variants)
    if not tensors:
        return {}
    sizes = _sizes(tensors)
    selections = {model: Ranking(tensors[0].dtype, num_kept(density, sizes[model]))
                  for model, (density,) in _densities(tensors).items() if 0 < density < 1}
    passes = max((selection.passes for selection in selections.values()), default=0)
    with bar("reading the task vectors", passes * len(tensors)) as progress:
        for number in range(passes):
            for tensor in tensors:
                _observe(tensor, selections, number, reader, chunk)
                progress.advance()
            for selection in selections.values():
                selection.settle(number)
    return {model: selection.threshold for model, selection in selections.items()}


def _trimmed(plan: Plan, variants: Variants) -> list[PlannedTensor]:
    if variants.ties_trim == "tensor":
        return []
    return [tensor for tensor in plan.tensors if METHODS[tensor.method].thins == "magnitude"]


def _densities(tensors: list[PlannedTensor]) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for tensor in tensors:
        for source in tensor.inputs[1:]:
            found.setdefault(source.model, set()).add(float(source.parameters["density"]))
    return found


def _sizes(tensors: list[PlannedTensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors:
        for source in tensor.inputs[1:]:
            found[source.model] = found.get(source.model, 0) + tensor.numel
    return found


def _observe(tensor: PlannedTensor, selections: dict[str, Ranking], number: int, reader: Reader, chunk: int) -> None:
    for start, count in chunks(tensor.numel, chunk):
        base, *others = (widen(row, tensor.dtype) for row in read_inputs(tensor, reader, start, count))
        for source, other in zip(tensor.inputs[1:], others, strict=True):
            if source.model in selections:
                selections[source.model].count(number, magnitudes(narrow(other - base, tensor.dtype)))
