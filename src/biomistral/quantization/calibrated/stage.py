"""Layer by layer to 4 bits, each written as its own shard, so that work cut off goes on there.

Memory: the embeddings, one decoder layer, the activations of the samples. Two streams of activations flow: the 16-bit
model's over calibration and evaluation samples, and the 4-bit model's, from the shards as written, over the evaluation's.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.files import write_json
from biomistral.models import skeleton
from biomistral.models.awq_format import BITS, SUFFIXES, config_entry, pack, unpack
from biomistral.models.folder import copy_tokenizer
from biomistral.models.load import num_parameters, pick_device
from biomistral.progress import track
from biomistral.quantization.calibrated.activations import Statistics, first_hidden, run_layer, watch
from biomistral.quantization.calibrated.layer import awq_layer, round_layer
from biomistral.quantization.calibrated.mappings import INPUTS, LINEARS, prove
from biomistral.quantization.calibrated.plan import Plan, check_finite, make_plan
from biomistral.quantization.calibrated.samples import draw
from biomistral.quantization.report import compare, relative_error
from biomistral.quantization.settings import QuantizeSettings

REPORT = "quantization.json"
PROGRESS = "progress.json"
_PROOF_TOKENS = 16


def quantize(work: Workspace) -> None:
    """Write the 4-bit model in AutoAWQ's layout, with ``quantization.json``: what it cost.

    Raises:
        UserError: see `make_plan`, `draw` and `run_layer`.
    """
    settings, folder, started = work.settings, work.locate(work.settings.model), time.monotonic()
    plan = make_plan(folder, settings, pick_device(work.machine.device))
    count = settings.evaluation_samples + (settings.samples if settings.method == "awq" else 0)
    sequences = draw(work.locate(settings.calibration), folder, plan.config["vocab_size"], settings.sequence_length, count,
                     settings.seed)
    report_path = work.path / REPORT
    if report_path.is_file():  # cut off between the report and the manifest
        report = json.loads(report_path.read_text(encoding="utf-8"))
    else:
        for leftover in work.path.glob(".*.tmp"):
            leftover.unlink()
        report = Quantizer(plan, settings, work.path).run(sequences)
        write_json(report_path, report)
    (work.path / PROGRESS).unlink(missing_ok=True)
    work.counts = {"layers": len(plan.layers), "tokens": sequences.numel(), "parameters": report["size"]["parameters"]}
    work.licences = open_artifact(folder).manifest["licences"] if is_artifact(folder) else {}
    work.facts = {**report, "seconds": round(time.monotonic() - started, 1)}


@dataclass
class Quantizer:
    """A model on its way into ``out``, one layer after the other."""

    plan: Plan
    settings: QuantizeSettings
    out: Path

    def run(self, sequences: Tensor) -> dict[str, Any]:
        """All layers and what stands around them; ``sequences`` (count, T): evaluation first, then calibration."""
        plan, evaluated = self.plan, sequences[:self.settings.evaluation_samples]
        around = self._load_around()
        exact, calls = first_hidden(plan.model, sequences.to(plan.device))
        rounded = exact[:len(evaluated)]
        if self.settings.method == "awq":
            self._prove(sequences[:1])
        self._write(0, around)
        layers = []
        for index in track(range(len(plan.layers)), f"{self.settings.method} layers"):
            exact, errors = self._layer(index, calls[index], exact, len(evaluated))
            rounded = self._replay(index, calls[index], rounded)
            layers.append({**errors, "hidden_error": relative_error(exact[:len(evaluated)], rounded)})
        self._write_index()
        decoder: Any = plan.model.base_model
        measured = compare(decoder.norm, plan.model.get_output_embeddings(), exact[:len(evaluated)], rounded, evaluated)
        return {"method": self.settings.method, "group_size": self.settings.group_size, **measured, "size": self._size(),
                "layers": layers}

    def _load_around(self) -> dict[str, Tensor]:
        """Give the model its embeddings, final norm and head, which both streams need; returns them as read."""
        plan = self.plan
        rest = plan.weights.read(plan.rest_names())
        check_finite(plan.folder, rest)
        skeleton.fill(plan.model, rest, plan.compute, plan.device, strict=False)
        plan.model.tie_weights()
        return rest

    def _prove(self, sequences: Tensor) -> None:
        plan, layer = self.plan, self.plan.layers[0]
        hidden, calls = first_hidden(plan.model, sequences[:, :_PROOF_TOKENS].to(plan.device))
        noise = torch.randn(hidden[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        skeleton.fill(layer, plan.read_layer(0), torch.float64, plan.device)
        prove(layer, calls[0], noise.to(plan.device), plan.family)

    def _layer(self, index: int, call: dict[str, Any], hidden: list[Tensor],
               evaluated: int) -> tuple[list[Tensor], dict[str, Any]]:
        """Run the 16-bit layer and, unless its shard is there from an earlier run, write its 4-bit form."""
        plan, layer, name = self.plan, self.plan.layers[index], self.plan.layer_name(index)
        tensors = plan.read_layer(index)
        skeleton.fill(layer, tensors, plan.compute, plan.device)
        what = f"{plan.folder}: layer {index} ('{name}')"
        if self._shard(index + 1).is_file():
            return run_layer(layer, call, hidden, what), self._progress()[str(index)]
        after = run_layer(layer, call, hidden[:evaluated], what)
        with watch(layer, [mapping.consumers[0] for mapping in INPUTS]) as statistics:
            after += run_layer(layer, call, hidden[evaluated:], what)
        skeleton.fill(layer, tensors, torch.float32, plan.device)
        errors = self._write_layer(index, statistics)
        return after, errors

    def _write_layer(self, index: int, statistics: dict[str, Statistics]) -> dict[str, Any]:
        plan, layer, settings = self.plan, self.plan.layers[index], self.settings
        errors: dict[str, Any] = {}
        if settings.method == "awq":
            matrices, errors["output_error"] = awq_layer(layer, statistics, settings.group_size, settings.clip, plan.stored)
        else:
            matrices = round_layer(layer, settings.group_size)
        prefix = plan.layer_name(index)
        tensors = {f"{prefix}.{name}": tensor for name, tensor in layer.state_dict().items()
                   if name.removesuffix(".weight") not in LINEARS}
        for name, matrix in matrices.items():
            tensors |= {f"{prefix}.{name}.{suffix}": tensor for suffix, tensor in pack(matrix).items()}
        write_json(self.out / PROGRESS, {**self._progress(), str(index): errors})
        self._write(index + 1, tensors)
        return errors

    def _replay(self, index: int, call: dict[str, Any], hidden: list[Tensor]) -> list[Tensor]:
        """Run the layer with the weights that its shard, read back, stands for."""
        plan, layer, prefix = self.plan, self.plan.layers[index], self.plan.layer_name(index) + "."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(self._shard(index + 1)).items()}
        for name in LINEARS:
            matrix = unpack({suffix: tensors.pop(f"{name}.{suffix}") for suffix in SUFFIXES})
            tensors[f"{name}.weight"] = matrix.dequantized()
        skeleton.fill(layer, tensors, plan.compute, plan.device)
        after = run_layer(layer, call, hidden, f"{plan.folder}: layer {index}, quantised")
        layer.to("meta")
        return after

    def _shard(self, number: int) -> Path:
        """File 0 holds what stands around the layers, file i + 1 layer i."""
        return self.out / f"model-{number + 1:05d}-of-{len(self.plan.layers) + 1:05d}.safetensors"

    def _write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard whole or not at all; floating-point tensors but the groups' scales in the stored precision."""
        placed = {name: (tensor.to(self.plan.stored) if tensor.is_floating_point() and not name.endswith(".scales")
                         else tensor).cpu().contiguous() for name, tensor in tensors.items()}
        check_finite(self.plan.folder, {name: tensor for name, tensor in placed.items() if tensor.is_floating_point()})
        temporary = self._shard(number).with_name(f".{self._shard(number).name}.tmp")
        save_file(placed, temporary, metadata={"format": "pt"})
        temporary.replace(self._shard(number))

    def _progress(self) -> dict[str, Any]:
        path = self.out / PROGRESS
        progress: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return progress

    def _write_index(self) -> None:
        """Everything of the folder that is not weights."""
        shards = [self._shard(number) for number in range(len(self.plan.layers) + 1)]
        places = {name: path.name for name, path in skeleton.Weights(shards).place.items()}
        write_json(self.out / "model.safetensors.index.json",
                   {"metadata": {"total_size": sum(path.stat().st_size for path in shards)}, "weight_map": places})
        config = {key: value for key, value in self.plan.config.items() if key != "torch_dtype"}
        write_json(self.out / "config.json", {**config, "dtype": str(self.plan.stored).removeprefix("torch."),
                                              "quantization_config": config_entry(self.settings.group_size)})
        copy_tokenizer(self.plan.folder, self.out)

    def _size(self) -> dict[str, Any]:
        """Bytes on disk against 16 bits a parameter; bits a weight with scales and zero points."""
        layer: Any = self.plan.layers[0]
        quantized = len(self.plan.layers) * sum(layer.get_submodule(name).weight.numel() for name in LINEARS)
        parameters = num_parameters(self.plan.model)
        size = sum(path.stat().st_size for path in self.out.glob("*.safetensors"))
        return {"parameters": parameters, "quantized_parameters": quantized, "bytes": size, "reference_bytes": 2 * parameters,
                "bits_per_weight": BITS + (16 + BITS) / self.settings.group_size, "bits_per_parameter": 8 * size / parameters}
