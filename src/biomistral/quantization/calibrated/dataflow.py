"""What feeds a decoder layer's linear layers: found by watching the layer run, shown by what its outputs do.

No table of architectures: the layer computes on random float64 input, in random float64 weights. Linear layers given the
same tensor form a group. If a norm made that tensor, scales can move from the norm into the group. Otherwise the rows of
each linear layer before it are multiplied by factors that all differ: where every input of the group follows exactly one
of them, the same for all tokens, scales can move between the two (v to o whatever the attention does, up to down).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_EXACT = 1e-9  # float64 products and sums in the same order: measured 1e-15
_PROVED = 1e-5  # norms compute in float32 inside


@dataclass(frozen=True)
class Mapping:
    """Scales may move out of ``previous`` into the inputs of the linear layers that read it.

    ``channels`` (K,): which output of ``previous`` each input is. ``offset``: what a norm adds to its weight (Gemma: 1).
    """

    previous: str
    channels: Tensor
    offset: float = 0.0
    is_norm: bool = True

    @property
    def distinct(self) -> bool:
        """Whether no two inputs are the same output: not those of o under grouped queries, whose heads share values."""
        return len(self.channels.unique()) == len(self.channels)


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same tensor; ``mapping`` None where scales cannot move into it."""

    consumers: tuple[str, ...]
    mapping: Mapping | None = None


@dataclass
class _Trace:
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def _watched(layer: nn.Module) -> Iterator[_Trace]:
    """Keep what every part of the layer that has no parts is given and gives."""
    trace, handles = _Trace(), []

    def note(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
                trace.inputs[name], trace.outputs[name] = arguments[0], output
        return hook

    for name, module in layer.named_modules():
        if name and not list(module.children()):
            handles.append(module.register_forward_hook(note(name)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside, by name."""
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def hidden_of(output: Any) -> Tensor:
    """A decoder layer's hidden states; some return them first in a tuple."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@dataclass
class Probe:
    """A decoder layer in random float64 weights, and one call of it."""

    layer: nn.Module
    call: dict[str, Any]
    hidden: Tensor
    widths: Sequence[int]
    """How many of a linear layer's first or last outputs may be the ones followed: the values in a fused projection."""

    def run(self) -> tuple[Tensor, _Trace]:
        with torch.inference_mode(), _watched(self.layer) as trace:
            return hidden_of(self.layer(self.hidden, **self.call)), trace

    def groups(self, mapped: bool = True) -> list[Group]:
        """The groups in the order in which they compute; unless ``mapped``, only who reads the same tensor is looked for.

        Raises:
            ValueError: a linear layer takes no part in the call.
        """
        _, trace = self.run()
        parts = linears(self.layer)
        idle = sorted(set(parts) - set(trace.inputs))
        if idle:
            raise ValueError(f"'{idle[0]}' takes no part in what the layer computes")
        together: dict[tuple[int, int], list[str]] = {}
        for name, given in trace.inputs.items():
            if name in parts:
                together.setdefault((given.data_ptr(), given.numel()), []).append(name)
        return [Group(tuple(names), (self._norm(names[0], trace) or self._linear(names[0], names, trace)) if mapped else None)
                for names in together.values()]

    def _norm(self, consumer: str, trace: _Trace) -> Mapping | None:
        """The norm that made a linear layer's input."""
        given = trace.inputs[consumer]
        for name, output in trace.outputs.items():
            module = self.layer.get_submodule(name)
            weight = getattr(module, "weight", None)
            if weight is None or weight.dim() != 1 or output.data_ptr() != given.data_ptr():
                continue
            offset = _offset(module, trace.inputs[name])
            if offset is not None:
                return Mapping(name, torch.arange(weight.shape[0]), offset)
        return None

    def _linear(self, consumer: str, group: Sequence[str], trace: _Trace) -> Mapping | None:
        """The linear layer, or the part of its outputs, that the group's input is proportional to."""
        inputs = trace.inputs[consumer].shape[-1]
        before = list(trace.inputs)[:list(trace.inputs).index(consumer)]  # in the order in which they ran
        for name in before[::-1]:
            part = self.layer.get_submodule(name)
            if not isinstance(part, nn.Linear) or name in group:
                continue
            outputs = part.out_features
            for width in dict.fromkeys(width for width in (outputs, inputs, *self.widths) if width <= outputs):
                for start in dict.fromkeys((outputs - width, 0)):
                    channels = self._followed(part, start, width, consumer, trace.inputs[consumer])
                    if channels is not None:
                        return Mapping(name, channels, is_norm=False)
        return None

    def _followed(self, part: nn.Linear, start: int, width: int, consumer: str, before: Tensor) -> Tensor | None:
        """Which output, from ``start``, each input of the consumer is proportional to; None unless each follows one."""
        generator = torch.Generator().manual_seed(0)
        factors = torch.linspace(1.1, 2.1, width, dtype=torch.float64)[torch.randperm(width, generator=generator)]  # none is 1
        rows = slice(start, start + width)
        kept = [(tensor, tensor.data[rows].clone()) for tensor in (part.weight, part.bias) if tensor is not None]
        for tensor, values in kept:
            tensor.data[rows] = values * (factors[:, None] if values.dim() == 2 else factors).to(values)
        _, trace = self.run()
        for tensor, values in kept:
            tensor.data[rows] = values
        x, y = (states.reshape(-1, states.shape[-1]) for states in (before, trace.inputs[consumer]))
        ratio = (x * y).sum(0) / x.square().sum(0)
        if not float((y - x * ratio).norm() / y.norm()) < _EXACT:
            return None
        ordered, place = factors.to(ratio).sort()
        nearest = torch.searchsorted(ordered, ratio - 0.5 / (2 * width)).clamp_(max=width - 1)
        if not bool(((ordered[nearest] - ratio).abs() < _EXACT).all()):
            return None
        return (place.to(nearest.device)[nearest] + start).cpu()


def _offset(norm: nn.Module, given: Tensor) -> float | None:
    """c of a norm that computes normalised(x) * (weight + c) + bias; None if it computes something else."""
    weight, bias = norm.get_parameter("weight"), getattr(norm, "bias", None)
    kept, outputs = (weight.data.clone(), None if bias is None else bias.data.clone()), []
    with torch.inference_mode():
        for value in (0.0, 1.0, 3.0):
            weight.data.fill_(value)
            if bias is not None:
                bias.data.zero_()
            outputs.append(norm(given))
    weight.data.copy_(kept[0])
    if bias is not None and kept[1] is not None:
        bias.data.copy_(kept[1])
    unit = outputs[1] - outputs[0]
    linear = float((outputs[2] - outputs[0] - 3 * unit).norm() / unit.norm())
    added = float((outputs[0] * unit).sum() / unit.square().sum())
    straight = float((outputs[0] - added * unit).norm() / unit.norm())
    if linear < _PROVED and straight < _PROVED and min(abs(added), abs(added - 1)) < _PROVED:
        return float(round(added))
    return None


def random_weights(layer: nn.Module) -> dict[str, Tensor]:
    """float64 values for every tensor of a layer, from its names and shapes alone; norms and biases lie in 0.5..1.5."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in layer.state_dict().items():
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        found[name] = values + 0.5 if tensor.dim() < 2 else (values - 0.5) * math.sqrt(12 / tensor.shape[-1])
    return found
