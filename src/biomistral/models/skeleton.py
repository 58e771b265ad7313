"""A model whose weights are not in memory yet: built on the meta device, filled module by module from safetensors."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from biomistral.errors import UserError


class Weights:
    """The tensors of a model's safetensors files, read one by one by name."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.place: dict[str, Path] = {}
        for path in files:
            with safe_open(path, "pt") as shard:
                self.place |= dict.fromkeys(shard.keys(), path)

    def dtype(self, name: str) -> torch.dtype:
        """The precision a tensor is stored in."""
        with safe_open(self.place[name], "pt") as shard:
            return shard.get_slice(name)[:0].dtype

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name; each file is opened once."""
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self.place[name], []).append(name)
        found: dict[str, Tensor] = {}
        for path, here in wanted.items():
            with safe_open(path, "pt") as shard:
                found |= {name: shard.get_tensor(name) for name in here}
        return found


def build(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model of ``config.json`` in evaluation mode, parameters on the meta device, buffers computed on ``device``.

    Raises:
        UserError: the architecture is unknown, or has buffers that only a full load can fill.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a causal language model ({str(error).splitlines()[0]})") from error
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        if not hasattr(module, "rope_type"):
            raise UserError(f"{folder}: {model.config.model_type} keeps a buffer in '{name}' that cannot be built without "
                            "loading the model; this architecture is not supported here")
        model.set_submodule(name, type(module)(config=module.config).to(device))
    return model.eval()


def fill(module: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu",
         strict: bool = True) -> None:
    """Give a module its weights, in ``dtype``; names are relative to the module."""
    placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    module.load_state_dict(placed, strict=strict, assign=True)
    module.requires_grad_(False)
