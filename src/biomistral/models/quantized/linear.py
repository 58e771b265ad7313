"""Linear layers in integers at run time: weights dequantised for a whole batch, or a 4-bit kernel for few rows.

Measured on one core, 1536 x 576, group 64, bfloat16, in ms: the kernel takes 0.08 for 1 row, 0.24 for 8, 0.69 for 24, 0.91 for
32; from the kernel's own form back to weights and their product 0.78, of which dequantising is 0.1; 576 rows 1.2.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from biomistral.models.quantized.dequantise import Scratch, dequantise_cpu
from biomistral.models.quantized.dequantise_gpu import dequantise_gpu
from biomistral.models.quantized.kernels import Kernel, kernel_for, kernel_scales, pad_outputs
from biomistral.models.quantized.matrix import IntMatrix

FEW_ROWS = 24
"""Up to here the kernel wins, by the times above."""


class IntLinear(nn.Module):  # type: ignore[misc]
    """``x (..., K) -> x W' + b (..., N)`` with W (N, K) in 4 or 8 bits; for inference only.

    One copy of the integers is kept, in the form that is used: the plain one until a kernel first needs its own.
    """

    plain: Tensor | None
    """uint8: in 8 bits (N, K); in 4 bits (ceil(N / 2), K), the first half of the rows low, the second high."""
    tiled: Tensor | None
    """The kernel's form."""
    zeros: Tensor
    scales: Tensor
    tiled_scales: Tensor | None
    bias: Tensor | None

    def __init__(self, matrix: IntMatrix, bias: Tensor | None = None, scratch: Scratch | None = None) -> None:
        super().__init__()
        self.scratch = scratch or Scratch()
        self.out_features, self.in_features = matrix.levels.shape
        self.group_size, self.bits = matrix.group_size, matrix.bits
        self.few_rows = FEW_ROWS
        self.register_buffer("plain", _fold(matrix.levels) if self.bits == 4 else matrix.levels.contiguous())
        self.register_buffer("zeros", matrix.zeros)
        self.register_buffer("scales", matrix.scales)
        self.register_buffer("tiled", None)
        self.register_buffer("tiled_scales", None)
        self.register_buffer("bias", bias)

    def matrix(self) -> IntMatrix:
        """The matrix as levels, zeros and scales."""
        plain = self._plain()
        levels = plain if self.bits == 8 else torch.cat((plain & 15, plain >> 4))[:self.out_features]
        return IntMatrix(levels, self.zeros, self.scales, self.bits)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weights (N, K): (q - z) * s, computed in float32 and rounded once."""
        return self.fill(torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.zeros.device))

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() <= self.few_rows * self.in_features and self.bits == 4:
            kernel = kernel_for(x.device, x.dtype, self.in_features, self.group_size)
            if kernel is not None:
                return self._multiply(kernel, x)
        if x.requires_grad or x.device.type != "cpu":  # what a gradient needs may not be written over
            return functional.linear(x, self.weight(x.dtype), self.bias)
        room = self.scratch.take("weights", x.dtype, self.out_features * self.in_features)
        return functional.linear(x, self.fill(room.view(self.out_features, self.in_features)), self.bias)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, "
                f"group_size={self.group_size}")

    def fill(self, out: Tensor) -> Tensor:
        """Put the weights into ``out`` (N, K) and return it."""
        plain = self._plain()
        halves = (0,) if self.bits == 8 else (0, len(plain))
        dequantise = partial(dequantise_cpu, self.scratch) if plain.device.type == "cpu" else dequantise_gpu
        for number, start in enumerate(halves):
            rows = slice(start, min(start + len(plain), self.out_features))
            part = plain[:rows.stop - start]
            dequantise(part, None if self.bits == 8 else 4 * number, self.zeros[rows], self.scales[rows], out[rows])
        return out

    def _plain(self) -> Tensor:
        """The plain form: kept where the kernel is not to be used any more, made for this call where it is."""
        if self.plain is not None:
            return self.plain
        assert self.tiled is not None
        kernel = kernel_for(self.tiled.device, torch.bfloat16, self.in_features, self.group_size)
        unpack = None if kernel is None else kernel.unpack
        assert unpack is not None, "the plain form is given up only where there is a way back"
        plain = _fold(unpack(self.tiled)[:self.out_features])
        if self.few_rows == 0:
            self.plain, self.tiled, self.tiled_scales = plain, None, None
        return plain

    def _multiply(self, kernel: Kernel, x: Tensor) -> Tensor:
        if self.tiled is None:
            self.tiled = kernel.pack(pad_outputs(self.matrix().levels, kernel.block, 0))
            self.tiled_scales = pad_outputs(kernel_scales(self.zeros, self.scales), kernel.block, 1)
            self.plain = self.plain if kernel.unpack is None else None
        assert self.tiled_scales is not None
        flat = kernel.multiply(x.reshape(-1, self.in_features), self.tiled, self.group_size, self.tiled_scales)
        out = flat[:, :self.out_features].reshape(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias


def _fold(levels: Tensor) -> Tensor:
    """4-bit levels (N, K) to bytes (ceil(N / 2), K): row i low, row i + ceil(N / 2) high, so that both unfold as they lie."""
    low, high = pad_outputs(levels, 2, 0).chunk(2)
    return low | high << 4


def quantized_layers(model: nn.Module) -> list[IntLinear]:
    """A model's layers in integers."""
    return [module for module in model.modules() if isinstance(module, IntLinear)]


def num_quantized(model: nn.Module) -> int:
    """Weights held in integers, which `nn.Module.parameters` does not count."""
    return sum(layer.in_features * layer.out_features for layer in quantized_layers(model))


def same_for_any_batch(model: nn.Module) -> None:
    """From now on compute every product from dequantised weights, however few rows there are.

    The kernel rounds elsewhere (scales to bfloat16, weights not at all), so that which of the two is taken for a row must not
    hang on how many stand beside it.
    """
    for layer in quantized_layers(model):
        layer.few_rows = 0
