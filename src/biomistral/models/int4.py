"""4-bit linear layers at run time: PyTorch's own int4 kernel for few rows, dequantise once a batch for many.

Measured on one core, 576 x 1536, group 64, bfloat16, kernel against dequantise and multiply, in ms:
1 row 0.03 against 0.71, 16 rows 0.17 against 0.72, 64 rows 0.65 against 0.83, 128 rows 1.34 against 1.10, 512 rows 5.5
against 2.7.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.models.awq_format import BITS, SUFFIXES, Int4, unpack

KERNEL_ROWS = 64  # up to here the kernel wins
KERNEL_GROUPS = (32, 64, 128, 256)
KERNEL_OUTPUTS = 16  # the kernel's packing wants a multiple of this


class Int4Linear(nn.Module):  # type: ignore[misc]
    """``x (..., K) -> x W' + b (..., N)`` with W (N, K) held in 4 bits; for inference only.

    Two 4-bit copies are kept on a CPU in bfloat16, the plain one and the kernel's: together half of bfloat16's memory.
    Dequantised weights live for one call.
    """

    packed: Tensor
    zeros: Tensor
    scales: Tensor
    kernel: Tensor | None
    kernel_scales: Tensor | None
    bias: Tensor | None

    def __init__(self, matrix: Int4, bias: Tensor | None = None, kernel: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = matrix.levels.shape
        self.group_size = matrix.group_size
        self.register_buffer("packed", matrix.levels[:, 0::2] | matrix.levels[:, 1::2] << BITS)
        self.register_buffer("zeros", matrix.zeros)
        self.register_buffer("scales", matrix.scales.float())
        self.register_buffer("bias", bias)
        fits = kernel and self.group_size in KERNEL_GROUPS and self.out_features % KERNEL_OUTPUTS == 0
        self.register_buffer("kernel", _kernel_packing(matrix) if fits else None)
        self.register_buffer("kernel_scales", _kernel_scales(matrix) if fits else None)

    def matrix(self) -> Int4:
        """The 4-bit matrix as levels, zeros and scales."""
        levels = torch.stack((self.packed & 15, self.packed >> BITS), -1).flatten(1)
        return Int4(levels, self.zeros, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // self.in_features
        if self.kernel is not None and self.kernel_scales is not None and rows <= KERNEL_ROWS \
                and x.dtype == torch.bfloat16 and x.device.type == "cpu":
            flat = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x.reshape(-1, self.in_features), self.kernel, self.group_size, self.kernel_scales)
            out = flat.view(*x.shape[:-1], self.out_features)
            return out if self.bias is None else out + self.bias
        return functional.linear(x, self.matrix().dequantized().to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, group_size={self.group_size}"


def _kernel_packing(matrix: Int4) -> Tensor:
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(matrix.levels.to(torch.int32), 1)


def _kernel_scales(matrix: Int4) -> Tensor:
    """(K/g, N, 2) in the kernel's convention w = (q - 8) * scale + offset, so offset = (8 - z) * s."""
    scales = matrix.scales.float()
    offsets = (8 - matrix.zeros.float()) * scales
    return torch.stack((scales, offsets), -1).transpose(0, 1).contiguous().to(torch.bfloat16)


def num_quantized(model: nn.Module) -> int:
    """Weights held in 4 bits, which `nn.Module.parameters` does not count."""
    return sum(module.in_features * module.out_features for module in model.modules() if isinstance(module, Int4Linear))


def _check_config(folder: Path, entry: dict[str, object]) -> None:
    for key, expected in (("bits", BITS), ("version", "gemm"), ("zero_point", True)):
        found = entry.get(key, expected)
        if (found.lower() if isinstance(found, str) else found) != expected:
            raise UserError(f"{folder / 'config.json'}: quantization_config.{key} is {found!r}; only AWQ models with "
                            f"{key} {expected!r} can be read")


def load_awq(folder: Path, files: list[Path], entry: dict[str, object], dtype: torch.dtype | None,
             device: torch.device | str) -> PreTrainedModel:
    """Load a model in AutoAWQ's GEMM layout; ``entry`` is its ``quantization_config``, ``dtype`` None means as stored.

    Raises:
        UserError: another layout than 4-bit GEMM with zero points, or tensors missing, superfluous or of a wrong shape.
    """
    _check_config(folder, entry)
    weights = skeleton.Weights(files)
    stored = [weights.dtype(name) for name in weights.place if name.endswith(("norm.weight", "embed_tokens.weight"))]
    dtype = dtype or next(iter(stored), torch.float16)
    model = skeleton.build(folder, dtype)
    left = set(weights.place)
    for name in sorted(name.removesuffix(".qweight") for name in weights.place if name.endswith(".qweight")):
        left -= _replace(model, name, weights, folder, dtype, torch.device(device))
    _fill_rest(model, left, weights, folder, dtype)
    return model.to(device)


def _replace(model: PreTrainedModel, name: str, weights: skeleton.Weights, folder: Path, dtype: torch.dtype,
             device: torch.device) -> set[str]:
    """Put an `Int4Linear` where the linear layer ``name`` is; returns the names of the tensors used."""
    names = [f"{name}.{suffix}" for suffix in (*SUFFIXES, "bias")]
    missing = [tensor for tensor in names[:3] if tensor not in weights.place]
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")
    try:
        linear = model.get_submodule(name)
    except AttributeError as error:
        raise UserError(f"{folder}: holds '{name}.qweight', but its architecture has no layer '{name}'") from error
    used = [tensor for tensor in names if tensor in weights.place]
    tensors = {tensor.rpartition(".")[2]: value for tensor, value in weights.read(used).items()}
    try:
        matrix = unpack(tensors)
    except ValueError as error:
        raise UserError(f"{folder}: '{name}': {error}") from error
    if not isinstance(linear, nn.Linear) or tuple(matrix.levels.shape) != (linear.out_features, linear.in_features):
        raise UserError(f"{folder}: '{name}.qweight' holds a {tuple(matrix.levels.shape)} matrix, the architecture "
                        f"expects {linear}")
    bias = tensors["bias"].to(dtype) if "bias" in tensors else None
    model.set_submodule(name, Int4Linear(matrix, bias, kernel=device.type == "cpu" and dtype == torch.bfloat16))
    return set(used)


def _fill_rest(model: PreTrainedModel, names: set[str], weights: skeleton.Weights, folder: Path, dtype: torch.dtype) -> None:
    """Load what is not quantised; every parameter must come from the files, or be tied to one that does."""
    skeleton.fill(model, weights.read(sorted(names & set(model.state_dict()))), dtype, strict=False)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UserError(f"{folder}: '{missing[0]}' is missing; the model is incomplete, download or make it again")
    superfluous = sorted(name for name in names - set(model.state_dict()) if not name.endswith("rotary_emb.inv_freq"))
    if superfluous:
        raise UserError(f"{folder}: tensor '{superfluous[0]}' belongs to no part of its architecture")
