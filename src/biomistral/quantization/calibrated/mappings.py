"""Moving scales from what feeds linear layers into them, and the proof that this leaves a decoder layer's function alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from biomistral.errors import UserError
from biomistral.quantization.calibrated.dataflow import Group, Probe, linears

_PROVED = 1e-5  # norms compute in float32 inside


def check_structure(layer: nn.Module, family: str) -> None:
    """
    Raises:
        UserError: the decoder layer keeps matrices that are not linear layers, or has no linear layer.
    """
    inside = {f"{name}.weight" for name in linears(layer)}
    other = [name for name, tensor in layer.named_parameters() if tensor.dim() > 1 and name not in inside]
    if other or not inside:
        what = f"its decoder layers keep weights in '{other[0]}', which is no linear layer" if other else (
            "its decoder layers have no linear layers")
        raise UserError(f"architecture '{family}' cannot be quantised: {what}")


def fold(layer: nn.Module, group: Group, scales: Tensor, stored: torch.dtype) -> Tensor:
    """Divide what feeds the group by scales (K,) of its inputs, multiply the group's weights; returns them as moved.

    Inputs that are the same output of ``previous`` must have the same scale. A norm's new weight is rounded to ``stored``,
    the dtype it is written in, and the scales follow the rounded weight: then writing it loses nothing.
    """
    mapping = group.mapping
    assert mapping is not None
    previous = layer.get_submodule(mapping.previous)
    weight, channels = previous.get_parameter("weight"), mapping.channels.to(scales.device)
    divisors = torch.ones(weight.shape[0], dtype=scales.dtype, device=scales.device)
    divisors[channels] = scales
    with torch.no_grad():
        if mapping.is_norm:
            divisors = _move_into_norm(weight, divisors, mapping.offset, stored)
        else:
            weight.div_(divisors[:, None])
        if getattr(previous, "bias", None) is not None:
            previous.get_parameter("bias").div_(divisors)
        for name in group.consumers:
            layer.get_parameter(f"{name}.weight").mul_(divisors[channels])
    return divisors[channels]


def _move_into_norm(weight: Tensor, divisors: Tensor, offset: float, stored: torch.dtype) -> Tensor:
    effective = weight + offset
    written = (effective / divisors - offset).to(stored).to(weight.dtype)
    divided = written + offset
    dead = (effective == 0) | (divided == 0)
    weight.copy_(torch.where(dead, weight, written))
    return torch.where(dead, 1.0, effective / divided)


def prove(probe: Probe, groups: Sequence[Group], family: str) -> None:
    """Show on random float64 input that moving scales leaves the layer's function as it was; its weights are changed.

    Raises:
        UserError: the function changed, or no scale can move at all.
    """
    before, _ = probe.run()
    generator = torch.Generator().manual_seed(0)
    mapped = [(group, group.mapping) for group in groups if group.mapping]
    if not mapped:
        raise UserError(f"architecture '{family}' cannot be quantised with awq: no operation was found that scales could move "
                        "out of; use --method gptq or rtn")
    for group, mapping in mapped:
        outputs = probe.layer.get_parameter(f"{mapping.previous}.weight").shape[0]
        scales = torch.rand(outputs, generator=generator, dtype=torch.float64) * 1.5 + 0.5
        fold(probe.layer, group, scales[mapping.channels].to(probe.hidden.device), torch.float64)
        after, _ = probe.run()
        change = float((after - before).norm() / (before - probe.hidden).norm())
        if not change < _PROVED:
            raise UserError(f"architecture '{family}' cannot be quantised with awq: moving scales from '{mapping.previous}' into "
                            f"'{group.consumers[0]}' changes a decoder layer's output by {change:.1e}; use --method gptq or rtn")
