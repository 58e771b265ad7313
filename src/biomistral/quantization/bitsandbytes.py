"""``--method nf4``, ``fp4`` and ``int8``: bitsandbytes' own rounding, one matrix after the other, in transformers' format."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.models.bnb_layers import BLOCK, Kind, check_bitsandbytes, check_blocks, config_entry, linears, quantized_tensors
from biomistral.models.folder import copy_tokenizer, read_config
from biomistral.models.load import pick_device
from biomistral.models.stored import StoredWeights, open_model, read_whole
from biomistral.quantization.report import REPORT
from biomistral.quantization.settings import QuantizeSettings
from biomistral.quantization.shards import Shards, in_parts


def quantize(work: Workspace) -> None:
    """Write the model with its linear layers but the head in 4 or 8 bits; memory: a gigabyte of weights at a time.

    Raises:
        UserError: bitsandbytes is missing, or gets a layer of this shape wrong; the model is quantised already, incomplete or
            damaged; the disk is too small.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    source = _open(folder, settings, pick_device(work.machine.device))
    shards = Shards(work.path, in_parts(source.sizes()))
    source.check_room(work.path)
    shards.write(source.stored_form, f"{settings.method} weights")
    config = {key: value for key, value in read_config(folder).items() if key != "torch_dtype"}
    write_json(work.path / "config.json", {
        **config, "dtype": str(source.dtype).removeprefix("torch."),
        "quantization_config": config_entry(settings.method, settings.double_quantization, source.dtype)})
    copy_tokenizer(folder, work.path)
    if not (work.path / REPORT).is_file():
        write_json(work.path / REPORT, source.report(work.path))
    work.counts = {"layers": len(source.quantized), "parameters": source.num_parameters()}
    work.licences = open_artifact(folder).manifest["licences"] if is_artifact(folder) else {}


@dataclass
class _Source:
    """The 16-bit model, read tensor by tensor."""

    folder: Path
    model: PreTrainedModel
    stored: StoredWeights | None
    settings: QuantizeSettings
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.named_parameters())  # tied ones once
        self.quantized = {f"{name}.weight" for name, _ in linears(self.model)}

    def sizes(self) -> list[tuple[str, int]]:
        return [(name, 2 * parameter.numel()) for name, parameter in self.parameters.items()]

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def stored_form(self, name: str) -> dict[str, Tensor]:
        """The tensors that are written of a parameter."""
        weight = read_whole(self.stored, name, self.parameters[name]).to(self.dtype)
        if not torch.isfinite(weight).all():
            raise UserError(f"{self.folder}: '{name}' holds NaN or infinite values; the model is damaged, make it again")
        if name not in self.quantized:
            return {name: weight.contiguous()}
        tensors = quantized_tensors(weight, cast(Kind, self.settings.method), self.settings.double_quantization, self.device)
        return {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in tensors.items()}

    def check_room(self, out: Path) -> None:
        """
        Raises:
            UserError: the disk has no room for what will be written.
        """
        weights = sum(self.parameters[name].numel() for name in self.quantized)
        need = int(weights * (1.05 if self.settings.method == "int8" else 0.57) + 2 * (self.num_parameters() - weights))
        need -= sum(path.stat().st_size for path in out.glob("*.safetensors"))
        if (free := shutil.disk_usage(out).free) < need:
            raise UserError(f"{out.parent}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; free some or choose "
                            "another --out")

    def report(self, out: Path) -> dict[str, Any]:
        """Method and sizes, as they begin ``quantization.json``."""
        weights = sum(self.parameters[name].numel() for name in self.quantized)
        rest = 2 * (self.num_parameters() - weights)  # 16 bits each
        files = sorted(out.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        bits = 8 * (sum(map(_tensor_bytes, files)) - rest) / weights
        about = {} if self.settings.method == "int8" else {
            "group_size": BLOCK, "double_quantization": self.settings.double_quantization}
        return {"method": self.settings.method, **about, "size": {
            "parameters": self.num_parameters(), "quantized_parameters": weights, "bytes": size,
            "reference_bytes": 2 * self.num_parameters(), "bits_per_weight": bits,
            "bits_per_parameter": 8 * size / self.num_parameters()}}


def _tensor_bytes(path: Path) -> int:
    """Bytes of a safetensors file without its header, whose length its first 8 bytes say."""
    with path.open("rb") as stream:
        return path.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def _open(folder: Path, settings: QuantizeSettings, device: torch.device) -> _Source:
    check_bitsandbytes(f"method: {settings.method}")
    config = read_config(folder)
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown method")
        raise UserError(f"{folder / 'config.json'}: already quantised ({method}); quantise its 16-bit original")
    model, stored = open_model(folder, torch.bfloat16)
    layers = dict(linears(model))
    if not layers:
        raise UserError(f"architecture '{config.get('model_type')}' has no linear layers besides its head; nothing would be "
                        "quantised")
    for name, layer in layers.items():
        check_blocks(f"{folder}: '{name}'", cast(Kind, settings.method), layer.in_features, device)
    first = next(iter(layers))
    precision = layers[first].weight.dtype if stored is None else stored.read_rows(f"{first}.weight", 0, 0).dtype
    if precision not in (torch.bfloat16, torch.float16, torch.float32):
        raise UserError(f"{folder}: weights in {precision}; import the model in 16 bit first ('biomistral model import')")
    return _Source(folder, model, stored, settings, torch.float16 if precision == torch.float16 else torch.bfloat16, device)
