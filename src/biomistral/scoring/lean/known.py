"""What a lean engine is made of, written down once a model of `transformers` was taken over: the next with the same configuration
is read from its files alone.

`transformers` and what it imports cost 3 CPU seconds and 180 MB. A description holds the names of tensors and a few numbers; it
counts for the same ``config.json``, names, shapes and types of tensors, versions, and processor.
"""

import json
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from biomistral.files import cache_folder, file_digest, write_json
from biomistral.models.folder import read_config, weight_files
from biomistral.models.load import load_model, num_parameters
from biomistral.models.mapped import forget
from biomistral.recipe import canonical_hash
from biomistral.scoring.engine import Engine, end_tokens, is_packed
from biomistral.scoring.lean.engine import LeanEngine
from biomistral.scoring.lean.native import code_key
from biomistral.scoring.lean.outside import Outside
from biomistral.scoring.lean.recognise import Norm, Parts, take_apart
from biomistral.scoring.lean.taking import can_multiply, engine_for, proved, taken_over

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NUMBERS = ("heads", "groups", "width", "window", "scale", "activation")

_ENDS = 8
"""Rows at either end of a tensor that are compared with what `transformers` made of them."""


class _Files:
    """The tensors of a model's files."""

    def __init__(self, folder: Path) -> None:
        files: list[Any] = [safe_open(path, "pt") for path in weight_files(folder)]
        self._of: dict[str, Any] = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (a file is no mapping)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def described(self) -> list[list[Any]]:
        """Name, shape and type of each."""
        slices = {name: file.get_slice(name) for name, file in self._of.items()}
        return [[name, own.get_shape(), own.get_dtype()] for name, own in sorted(slices.items())]

    def read(self, name: str) -> Tensor:
        """A tensor in bfloat16: as it lies in its mapped file where it has this type."""
        stored: Tensor = self._of[name].get_tensor(name)
        tensor = stored.to(torch.bfloat16)
        if tensor is not stored:
            forget([stored])
        return tensor

    def holds(self, name: str, parameter: Tensor) -> bool:
        """Whether a parameter is the tensor of this name, by its shape and both its ends."""
        own = self._of[name].get_slice(name)
        return (list(own.get_shape()) == list(parameter.shape)
                and torch.equal(own[:_ENDS].to(torch.bfloat16), parameter[:_ENDS])
                and torch.equal(own[-_ENDS:].to(torch.bfloat16), parameter[-_ENDS:]))

    def norm(self, described: list[Any]) -> Norm:
        name, added, epsilon = described
        return Norm.of(self.read(name), added, epsilon)

    def linear(self, described: list[str | None]) -> nn.Linear:
        weight, bias = (None if name is None else nn.Parameter(self.read(name), requires_grad=False) for name in described)
        assert weight is not None
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight, linear.bias = weight, bias
        return linear

    def layer(self, found: dict[str, Any]) -> Parts:
        norms = [(self.norm(one), self.norm(other)) for one, other in filter(None, (found["norms"], found["head_norms"]))]
        return Parts(**{name: found[name] for name in _NUMBERS}, norms=norms[0], head_norms=norms[1] if norms[1:] else None,
                     qkv=tuple(map(self.linear, found["qkv"])), out=self.linear(found["out"]),
                     gate_up=tuple(map(self.linear, found["gate_up"])), down=self.linear(found["down"]))


def open_engine(folder: Path, dtype: torch.dtype, device: torch.device, max_batch_tokens: int = 0) -> Engine:
    """The engine of a model folder that is only to be evaluated.

    Raises:
        UserError: see `load_model`.
    """
    if not is_packed(dtype, device) or "quantization_config" in read_config(folder) or not can_multiply():
        return engine_for(load_model(folder, dtype, device), max_batch_tokens)
    files = _Files(folder)
    place = cache_folder() / "lean" / f"{_key(folder, files)}.json"
    if (known := _written(place)) is not None:
        return _engine(known, files, max_batch_tokens)
    model = load_model(folder, dtype, device)
    outside = proved(model)
    if outside is None:
        return Engine(model, max_batch_tokens)
    with suppress(OSError, _ElsewhereError):  # a home that cannot be written: loaded the long way again next time
        description = _described(model, outside, files)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, description)
    return taken_over(model, outside, max_batch_tokens)


def _written(place: Path) -> dict[str, Any] | None:
    """A description; None where there is none yet, or a damaged one."""
    try:
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _key(folder: Path, files: _Files) -> str:
    """Of all that a description depends on."""
    settings = [folder / name for name in ("config.json", "generation_config.json")]
    sources = sorted(Path(__file__).parent.glob("*.py"))
    parts = [file_digest(path) if path.is_file() else None for path in (*settings, *sources)]
    versions = [metadata.version(name) for name in ("torch", "transformers")]
    return canonical_hash([parts, files.described(), versions, code_key()])[:40]


class _ElsewhereError(LookupError):
    """A parameter is no tensor of the files as it is."""


class _Names:
    """The names in the files of a model's parameters."""

    def __init__(self, model: "PreTrainedModel", files: _Files) -> None:
        self._files = files
        self._names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).extend((name, name.removeprefix(f"{model.base_model_prefix}.")))

    def of(self, parameter: Tensor) -> str:
        """
        Raises:
            _ElsewhereError: no tensor is it, or several may be.
        """
        found = {name for name in self._names.get(id(parameter), ()) if name in self._files}
        if len(found) != 1 or not self._files.holds(next(iter(found)), parameter):
            raise _ElsewhereError
        return found.pop()

    def norm(self, norm: Norm) -> list[Any]:
        return [self.of(norm.weight), norm.added, norm.epsilon]

    def linear(self, linear: nn.Module) -> list[Any]:
        if type(linear) is not nn.Linear:
            raise _ElsewhereError
        return [self.of(linear.weight), None if linear.bias is None else self.of(linear.bias)]

    def layer(self, layer: nn.Module) -> dict[str, Any]:
        parts = take_apart(layer)
        assert parts is not None
        numbers = {name: getattr(parts, name) for name in _NUMBERS}
        return {**numbers, "norms": list(map(self.norm, parts.norms)), "out": self.linear(parts.out),
                "head_norms": parts.head_norms and list(map(self.norm, parts.head_norms)), "down": self.linear(parts.down),
                "qkv": list(map(self.linear, parts.qkv)), "gate_up": list(map(self.linear, parts.gate_up))}


def _described(model: "PreTrainedModel", outside: Outside, files: _Files) -> dict[str, Any]:
    """What `_engine` makes the same engine of.

    Raises:
        _ElsewhereError: the files alone do not say what the model computes by.
    """
    names = _Names(model, files)
    return {"parameters": num_parameters(model), "ends": sorted(end_tokens(model)), "factor": outside.factor,
            "embedding": names.of(outside.embedding), "scale": outside.scale, "norm": names.norm(outside.norm),
            "head": names.linear(outside.head), "frequencies": outside.frequencies.tolist(),
            "layers": [names.layer(layer) for layer in model.base_model.layers]}


def _engine(found: dict[str, Any], files: _Files, max_batch_tokens: int) -> LeanEngine:
    outside = Outside(files.read(found["embedding"]), found["scale"], files.norm(found["norm"]), files.linear(found["head"]),
                      torch.tensor(found["frequencies"]), found["factor"])
    layers = found["layers"]
    return LeanEngine(outside, map(files.layer, layers), len(layers), found["parameters"], set(found["ends"]), max_batch_tokens)
