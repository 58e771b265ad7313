"""Linear layers side by side as one product, its weights in the order that oneDNN multiplies them in."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from biomistral.models.quantized.dequantise import Scratch
from biomistral.models.quantized.linear import IntLinear
from biomistral.scoring.lean.ordered import Places, ordered_integers


class Product:
    """Weights (outputs of all, inputs) of 16 bits."""

    def __init__(self, linears: Sequence[nn.Module], chunk: int) -> None:
        self.chunk, self.bias = chunk, _bias(linears)
        self.width = sum(int(linear.out_features) for linear in linears)
        self.weight: Tensor | None = self._ordered(torch.cat([linear.weight.detach() for linear in linears]))

    def begin(self) -> None:
        """Have the weights ready for a layer's chunks."""

    def end(self) -> None:
        """The layer's chunks are computed."""

    def _ordered(self, weight: Tensor) -> Tensor:
        return torch.as_tensor(torch.ops.mkldnn._reorder_linear_weight(weight, self.chunk))

    def __call__(self, x: Tensor) -> Tensor:
        return torch.as_tensor(torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))


class IntProduct(Product):
    """Weights in integers, of which 16-bit ones are made for the chunks of a pass: no more than a layer's are there at a time.

    Where oneDNN's order is known they are written in it (`ordered`); elsewhere it orders them anew in every pass, which takes
    half as long as the products of 512 rows.
    """

    def __init__(self, linears: Sequence[IntLinear], chunk: int, role: str, scratch: Scratch, places: Places) -> None:
        self.chunk, self.bias, self.scratch = chunk, _bias(linears), scratch
        self.width = sum(linear.out_features for linear in linears)
        self.weight = None
        self.integers = ordered_integers([linear.matrix() for linear in linears], chunk, role, places)
        self.linears = () if self.integers else tuple(linears)

    def begin(self) -> None:
        self.weight = self.integers.weights() if self.integers else self._ordered(self._plain())

    def end(self) -> None:
        self.weight = None

    def _plain(self) -> Tensor:
        inputs, start = self.linears[0].in_features, 0
        whole = self.scratch.take("weights", torch.bfloat16, self.width * inputs).view(self.width, inputs)
        for linear in self.linears:
            linear.fill(whole[start:start + linear.out_features])
            start += linear.out_features
        return whole


def product_of(linears: Sequence[nn.Module], chunk: int, role: str, scratch: Scratch, places: Places) -> Product:
    """The product that stands for layers, all of them in integers or none; ``role`` is its own among a decoder layer's."""
    ints = [linear for linear in linears if isinstance(linear, IntLinear)]
    return IntProduct(ints, chunk, role, scratch, places) if ints else Product(linears, chunk)


def _bias(linears: Sequence[nn.Module]) -> Tensor | None:
    biases = [linear.bias for linear in linears]
    return None if biases[0] is None else torch.cat([bias.detach() for bias in biases]).bfloat16()
