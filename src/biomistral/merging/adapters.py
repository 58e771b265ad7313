"""Low-rank adapters as inputs (``MODEL+ADAPTER``): W + scale * B A is made while W is read, and never as a model.

Numbers are those of peft's ``merge_and_unload``, which mergekit calls: the product in float32, then one rounding to W's type.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomistral.artifact import input_key
from biomistral.errors import UserError
from biomistral.merging.checkpoint import Checkpoint, Reader, StoredTensor, read_header
from biomistral.merging.floats import Float, narrow, widen

_TILE = 1 << 16
"""Elements of W whose change is computed at once; tiles start at fixed rows, so that chunks change no bit."""
_REFUSED = ("use_dora", "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens",
            "use_qalora", "lora_bias")
_WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer)\.")
_MATRIX = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Change:
    """What an adapter does to one tensor: ``scale * b @ a``, transposed for layers that store (in, out)."""

    a: StoredTensor
    b: StoredTensor
    scale: float
    transposed: bool


@dataclass(frozen=True)
class Adapter:
    """An adapter folder: the tensors it changes, and those it carries whole (``modules_to_save``, embeddings)."""

    folder: Path
    changes: dict[str, Change]
    replaced: dict[str, StoredTensor]


def open_adapter(folder: Path, model: Checkpoint) -> Adapter:
    """Read the headers of an adapter folder and see that it fits the model.

    Raises:
        UserError: not a plain LoRA adapter, truncated or corrupt, or one of another model.
    """
    config = _read_config(folder)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no {path.name}")
    _check_base(folder, model)
    halves: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for name, stored in read_header(path).items():
        short = name.removeprefix("base_model.model.")
        if match := _MATRIX.match(short):
            halves.setdefault(match["module"], {})[match["half"]] = stored
        elif (whole := _WRAPPED.sub(".", short)) in model.tensors:
            replaced[whole] = stored
        else:
            raise UserError(f"{path}: tensor {name} is no part of a plain LoRA adapter of '{model.name}'")
    changes = {f"{module}.weight": _change(path, module, pair, config) for module, pair in halves.items()}
    adapter = Adapter(folder, changes, replaced)
    _check_fit(adapter, path, model)
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder}: not an adapter folder: it has no {path.name}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"{path}: peft_type is {kind!r}; only LORA adapters can be merged")
    odd = [name for name in _REFUSED if config.get(name)] + (["bias"] if config.get("bias", "none") != "none" else [])
    if odd:
        raise UserError(f"{path}: {odd[0]} is {config[odd[0]]!r}: not a plain LoRA adapter; merge it into its model with peft "
                        "and name that folder")
    whole = isinstance(config.get("r"), int) and isinstance(config.get("lora_alpha"), (int, float))
    if not whole or config["r"] < 1:
        raise UserError(f"{path}: r and lora_alpha, two numbers, were expected")
    return config


def _check_base(folder: Path, model: Checkpoint) -> None:
    """Refuse an adapter that was trained on another model than this one, if it says on which (``base.json``)."""
    path = folder / "base.json"
    if not path.is_file():
        return
    try:
        trained_on = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: a JSON object was expected ({error})") from error
    if trained_on.get("key") != (key := input_key(model.folder)):
        raise UserError(f"{folder}: an adapter for another base: trained on {trained_on.get('name')} (key "
                        f"{str(trained_on.get('key'))[:12]}), '{model.name}' has the key {key[:12]}; name the model it was "
                        "trained on")


def _change(path: Path, module: str, pair: dict[str, StoredTensor], config: dict[str, Any]) -> Change:
    for half in "AB":
        if half not in pair or len(pair[half].shape) != 2:
            raise UserError(f"{path}: the matrix lora_{half} of {module} is missing, or no matrix")
    rank = pair["A"].shape[0]
    wanted = _of_module(config.get("rank_pattern"), module, config["r"])
    if rank != wanted or pair["B"].shape[1] != rank:
        raise UserError(f"{path}: {module} has rank {rank} in lora_A and {pair['B'].shape[1]} in lora_B, adapter_config.json "
                        f"says {wanted}")
    alpha = _of_module(config.get("alpha_pattern"), module, config["lora_alpha"])
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Change(pair["A"], pair["B"], scale, bool(config.get("fan_in_fan_out")))


def _of_module(pattern: Any, module: str, default: Any) -> Any:
    """A setting that some modules have for themselves: peft's keys are ends of names, or regular expressions of them."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_fit(adapter: Adapter, path: Path, model: Checkpoint) -> None:
    for name, change in adapter.changes.items():
        wide = (change.b.shape[0], change.a.shape[1])
        shape = wide[::-1] if change.transposed else wide
        if name not in model.tensors:
            raise UserError(f"{path}: an adapter for another base: '{model.name}' has no {name}")
        if model.tensors[name].shape != shape:
            raise UserError(f"{path}: an adapter for another base: {name} is {list(shape)} here, in '{model.name}' it is "
                            f"{list(model.tensors[name].shape)}")
    for name, stored in adapter.replaced.items():
        if model.tensors[name].shape != stored.shape:
            raise UserError(f"{path}: an adapter for another base: {name} is {list(stored.shape)} here, in '{model.name}' it is "
                            f"{list(model.tensors[name].shape)}")


class Adapted:
    """A `views.View` of a weight with an adapter's change added, in the type it is rounded to."""

    def __init__(self, name: str, stored: StoredTensor, change: Change, dtype: Float) -> None:
        self._name, self._stored, self._change = name, stored, change
        self.shape, self.dtype = stored.shape, dtype
        self._rows = max(1, _TILE // stored.shape[1])

    @property
    def nbytes(self) -> int:
        return self._stored.nbytes + self._change.a.nbytes + self._change.b.nbytes

    def read(self, reader: Reader, slot: int, start: int, count: int) -> np.ndarray:
        """As `views.View.read`: whole tiles are computed, of which the first and last may stick out."""
        columns = self.shape[1]
        weight = widen(reader.read(slot, self._name, self._stored, start, count), self._stored.dtype)
        weight = weight if weight.flags.writeable else weight.copy()
        first = start // columns // self._rows * self._rows
        for row in range(first, -(-(start + count) // columns), self._rows):
            change = self._tile(reader, row).reshape(-1)
            low, high = max(start, row * columns), min(start + count, row * columns + len(change))
            weight[low - start:high - start] += change[low - row * columns:high - row * columns]
        return narrow(weight, self.dtype)

    def _tile(self, reader: Reader, row: int) -> np.ndarray:
        """The change of the rows from ``row`` on; the product is PyTorch's, as peft's."""
        import torch

        change, last = self._change, min(row + self._rows, self.shape[0])
        a, b = (torch.from_numpy(reader.keep(f"{self._name} {half}", stored)).view(stored.shape)
                for half, stored in (("lora_A", change.a), ("lora_B", change.b)))
        product = (a[:, row:last].T @ b.T).contiguous() if change.transposed else b[row:last] @ a
        found: np.ndarray = product.mul_(change.scale).numpy()
        return found
