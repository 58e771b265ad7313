"""Decoder layers compiled one by one (``compile: true``): torch's Inductor fuses what stands between the matrix products.

With ``gradient_checkpointing: selective`` norms and gated activations alone are compiled: products inside of compiled code are
not seen by the policy that keeps them (`recompute`).
"""

import inspect
import os
import shutil
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from biomistral.errors import UserError
from biomistral.training.compute.attention import NAME, isolated_attention

_COMPILERS = ("g++", "clang++", "c++")


def check_compiler() -> None:
    """Refuse to compile where nothing can be compiled.

    Raises:
        UserError: there is no C++ compiler (a CPU's kernels, and Triton's launchers for a GPU, are built with one).
    """
    named = os.environ.get("CXX")
    wanted = (named,) if named else _COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise UserError(f"compile: true needs a C++ compiler, and {' or '.join(wanted)} is not there; install g++, or set "
                        "compile to false")


def compile_model(model: PreTrainedModel, gradient_checkpointing: str) -> None:
    """Compile as much as the way of recomputation allows."""
    if gradient_checkpointing == "selective":
        compile_between_products(model)
    else:
        compile_layers(model)


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer on its first use; attention stays as it is, outside of what is compiled.

    Attention is left out because its work depends on the lengths of a row's segments, which never come twice: compiled with
    them, each row would be compiled anew. All layers share their code, so it is compiled once or twice (the number of tokens
    becomes a variable when it changes for the first time).
    """
    AttentionInterface.register(NAME, torch.compiler.disable(isolated_attention))
    for layer in model.get_decoder().layers:
        layer.compile()


def compile_between_products(model: PreTrainedModel) -> tuple[int, int]:
    """Compile a decoder's norms and the activations of its gated MLPs, and no product; returns how many of each."""
    decoder = model.get_decoder()
    norms = [module for module in decoder.modules() if "Norm" in type(module).__name__ and not list(module.children())]
    for norm in norms:
        norm.compile()
    gated = [module for module in decoder.modules() if _is_gated(module)]
    if gated:
        activation = _GatedActivation(gated[0].act_fn)  # one for all: each of its own would be compiled anew
        activation.compile()
        for module in gated:
            module.forward = partial(_gated_forward, module, activation)
    return len(norms), len(gated)


class _GatedActivation(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """``activation(gate) * up``."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.as_tensor(self.activation(gate) * up)


def _is_gated(module: nn.Module) -> bool:
    """Whether a module computes what `_gated_forward` does, by its own words."""
    return hasattr(module, "act_fn") and "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))" in inspect.getsource(
        type(module).forward)


def _gated_forward(module: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    return torch.as_tensor(module.down_proj(activation(module.gate_proj(x), module.up_proj(x))))
