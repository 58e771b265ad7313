"""One decoder layer from 16 bit to 4: search, fold, clip, round; pure but for the layer it works in."""

import torch
from torch import Tensor, nn

from biomistral.models.awq_format import Int4
from biomistral.quantization.calibrated.activations import Statistics
from biomistral.quantization.calibrated.awq import fast_products, output_error, search_clip, search_scales
from biomistral.quantization.calibrated.groups import quantize_groups
from biomistral.quantization.calibrated.mappings import INPUTS, LINEARS, NOT_CLIPPED, can_fold, fold


def round_layer(layer: nn.Module, group_size: int) -> dict[str, Int4]:
    """Every linear layer (in float32) rounded to nearest."""
    return {name: quantize_groups(layer.get_parameter(f"{name}.weight").data, group_size) for name in LINEARS}


def awq_layer(layer: nn.Module, statistics: dict[str, Statistics], group_size: int, clip: bool,
              stored: torch.dtype) -> tuple[dict[str, Int4], dict[str, float]]:
    """AWQ of a decoder layer in float32, whose weights are changed: the scales are moved into it.

    ``statistics`` are those of the inputs of each mapping's first consumer, as the unscaled layer sees them.
    Returns the 4-bit matrices, and by linear layer the share of its outputs' energy that is error.
    """
    grams: dict[str, Tensor] = {}
    with fast_products():
        for mapping in INPUTS:
            seen = statistics[mapping.consumers[0]]
            grams |= dict.fromkeys(mapping.consumers, seen.gram)
            if not can_fold(layer, mapping):
                continue
            stacked = torch.cat([layer.get_parameter(f"{name}.weight").data for name in mapping.consumers])
            scales = search_scales(stacked, seen.gram, seen.mean, group_size)
            scales = fold(layer, mapping, scales, stored)
            grams |= dict.fromkeys(mapping.consumers, seen.gram / torch.outer(scales, scales))
        matrices: dict[str, Int4] = {}
        errors: dict[str, float] = {}
        for name in LINEARS:
            weight, gram = layer.get_parameter(f"{name}.weight").data, grams[name]
            shrink = search_clip(weight, gram, group_size) if clip and name not in NOT_CLIPPED else None
            matrices[name] = quantize_groups(weight, group_size, shrink)
            difference = matrices[name].dequantized() - weight
            errors[name] = float(output_error(difference, gram) / output_error(weight, gram).clamp(min=1e-30))
    return matrices, errors
