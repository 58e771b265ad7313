"""A model whose weights are not in memory yet: built on the meta device, filled module by module from safetensors."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from biomistral.errors import UserError


class Unbuildable(UserError):  # noqa: N818  (what it says of a model)
    """An architecture that only a full load builds."""


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

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header of its file."""
        with safe_open(self.place[name], "pt") as shard:
            return tuple(shard.get_slice(name).get_shape())

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a tensor; only these are read."""
        with safe_open(self.place[name], "pt") as shard:
            rows: Tensor = shard.get_slice(name)[start:stop]
            return rows

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


def outline(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of ``config.json`` with all its parameters and buffers on the meta device: names, shapes and configuration.

    Raises:
        UserError: the architecture is unknown.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as a causal language model ({str(error).splitlines()[0]})") from error


def build(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model of ``config.json`` in evaluation mode, parameters on the meta device, buffers computed on ``device``.

    Raises:
        UserError: the architecture is unknown, or (`Unbuildable`) has buffers that only a full load can fill.
    """
    model = outline(folder, dtype)
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        if hasattr(module, "rope_type"):
            model.set_submodule(name, type(module)(config=module.config).to(device))
        elif not _fill_buffers(model, module, device):
            raise Unbuildable(f"{folder}: {model.config.model_type} keeps a buffer in '{name}' that cannot be built without "
                              "loading the model; this architecture is not supported here")
    return model.eval()


def _fill_buffers(model: PreTrainedModel, module: nn.Module, device: torch.device | str) -> bool:
    """Have the model's own initialisation give a module's buffers their values (Gemma's embeddings keep their scale so);
    False if it leaves one as it is."""
    buffers = dict(module.named_buffers(recurse=False))
    if not all(buffer.is_floating_point() for buffer in buffers.values()):
        return False
    for name, buffer in buffers.items():
        setattr(module, name, torch.full_like(buffer, torch.nan, device=device))
    model._init_weights(module)
    return not any(bool(buffer.isnan().any()) for buffer in module.buffers(recurse=False))


def fill(module: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu",
         strict: bool = True) -> None:
    """Give a module its weights, in ``dtype``; names are relative to the module."""
    placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    module.load_state_dict(placed, strict=strict, assign=True)
    module.requires_grad_(False)


def homes(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Where each parameter hangs: a module and the name in it; tied ones in several."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(parameter, []).append((module, name))
    return found


@contextmanager
def weightless(model: nn.Module) -> Iterator[None]:
    """Parameters on the meta device stand, meanwhile, as zeros on the CPU that take no memory.

    What is put beside them (peft's adapters) follows their device and precision, and would have no values on the meta one.
    """
    stand_ins: dict[nn.Parameter, nn.Parameter] = {}
    for parameter, places in homes(model).items():
        if parameter.is_meta:
            zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            stand_in = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
            stand_ins[stand_in] = parameter
            for module, name in places:
                setattr(module, name, stand_in)
    yield
    for stand_in, places in homes(model).items():
        if stand_in in stand_ins:
            parameter = stand_ins[stand_in].requires_grad_(stand_in.requires_grad)
            for module, name in places:
                setattr(module, name, parameter)
