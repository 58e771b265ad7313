"""Decoder layers compiled one by one (``compile: true``): torch's Inductor fuses what stands between the matrix products."""

import os
import shutil

import torch
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


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer on its first use; attention stays as it is, outside of what is compiled.

    Attention is left out because its work depends on the lengths of a row's segments, which never come twice: compiled with
    them, each row would be compiled anew. All layers share their code, so it is compiled once or twice (the number of tokens
    becomes a variable when it changes for the first time).
    """
    AttentionInterface.register(NAME, torch.compiler.disable(isolated_attention))
    for layer in model.get_decoder().layers:
        layer.compile()
