"""One decoder layer from 16 bit to integers: search, fold, clip, round; pure but for the layer it works in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from biomistral.models.quantized.matrix import IntMatrix
from biomistral.quantization.calibrated.activations import Statistics
from biomistral.quantization.calibrated.awq import diagonal_blocks, fast_products, output_error, search_clip, search_scales
from biomistral.quantization.calibrated.dataflow import Group
from biomistral.quantization.calibrated.gptq import compensate
from biomistral.quantization.calibrated.groups import Scheme, grid, to_levels
from biomistral.quantization.calibrated.mappings import fold

_ELEMENTS = 1 << 19  # of a matrix that are clipped or rounded at a time: 2 MB of float32 stay in the cache


@dataclass(frozen=True)
class Steps:
    """What a method does: AWQ's ``scale`` and ``clip``, GPTQ's ``compensate`` (``by_activity``: largest inputs first)."""

    scale: bool
    clip: bool
    compensate: bool
    by_activity: bool = True

    @property
    def calibrated(self) -> bool:
        return self.scale or self.clip or self.compensate


def quantize_layer(layer: nn.Module, groups: Sequence[Group], statistics: Mapping[str, Statistics], scheme: Scheme, steps: Steps,
                   stored: torch.dtype) -> tuple[dict[str, IntMatrix], dict[str, float]]:
    """Quantise the linear layers of a decoder layer in float32, whose weights are changed: scales are moved into it.

    ``statistics`` are those of the inputs of each group's first layer, as the unscaled layer sees them; without (round to
    nearest) no error is known. Returns the matrices, and by linear layer the share of its outputs' energy that is error.
    """
    grams = {name: seen.gram for name, seen in statistics.items()}
    if steps.scale:
        for group in groups:
            if group.mapping is not None and group.mapping.distinct:
                first = group.consumers[0]
                with fast_products():
                    scales = search_scales(stacked(layer, group), grams[first], statistics[first].mean, scheme)
                scales = fold(layer, group, scales, stored)
                grams[first].div_(scales[:, None]).div_(scales)
    matrices: dict[str, IntMatrix] = {}
    errors: dict[str, float] = {}
    for group in groups:
        gram = grams.pop(group.consumers[0], None)
        weight = stacked(layer, group)
        made = _quantize(weight, gram, scheme, steps)
        start = 0
        for name in group.consumers:
            rows = slice(start, start + layer.get_submodule(name).out_features)
            matrices[name] = replace(made, levels=made.levels[rows], zeros=made.zeros[rows], scales=made.scales[rows])
            if gram is not None:
                errors[name] = _share_of_error(weight[rows], matrices[name], gram)
            start = rows.stop
    return matrices, errors


def stacked(layer: nn.Module, group: Group) -> Tensor:
    """The weights of a group's layers, one above the other, (N, K)."""
    parts = [layer.get_parameter(f"{name}.weight").data for name in group.consumers]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _quantize(weight: Tensor, gram: Tensor | None, scheme: Scheme, steps: Steps) -> IntMatrix:
    rows = max(64, _ELEMENTS // weight.shape[1])
    shrink = weight.new_ones(weight.shape[0], weight.shape[1] // scheme.group_size)
    if steps.clip:
        assert gram is not None
        blocks = diagonal_blocks(gram, scheme.group_size)
        with fast_products():
            shrink = torch.cat([search_clip(part, blocks, scheme) for part in weight.split(rows)])
    if steps.compensate:
        assert gram is not None
        weight, scales, zeros = compensate(weight, gram, scheme, shrink, steps.by_activity)
    else:
        scales, zeros = grid(weight, scheme, shrink)
    parts = [to_levels(*part, scheme) for part in zip(weight.split(rows), scales.split(rows), zeros.split(rows), strict=True)]
    levels, zeros, scales = (torch.cat([getattr(part, name) for part in parts]) for name in ("levels", "zeros", "scales"))
    return IntMatrix(levels, zeros, scales, scheme.bits)


def _share_of_error(weight: Tensor, matrix: IntMatrix, gram: Tensor) -> float:
    """Of the energy of the outputs."""
    with fast_products():
        error, energy = output_error(matrix.dequantized().sub_(weight), gram), output_error(weight, gram)
    return float(error / energy.clamp(min=1e-30))
