"""Layer by layer to integers, each written as its own shard, so that work cut off goes on there.

Memory: the embeddings, one decoder layer, the activations of the samples (on disk if they are large). Two streams of
activations flow: the 16-bit model's over calibration and evaluation samples, and the quantised model's, from the shards as
written, over the evaluation's.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biomistral.artifact import Workspace, is_artifact, open_artifact
from biomistral.files import write_json
from biomistral.models import skeleton
from biomistral.models.folder import copy_tokenizer
from biomistral.models.load import num_parameters, pick_device
from biomistral.models.quantized.layouts import WRITTEN, config_entry, pack
from biomistral.progress import track
from biomistral.quantization.calibrated.activations import Giver, first_hidden, run_layer, standing_in, watch
from biomistral.quantization.calibrated.dataflow import Group, linears
from biomistral.quantization.calibrated.groups import in_four_bits
from biomistral.quantization.calibrated.layer import quantize_layer
from biomistral.quantization.calibrated.plan import Plan, check_disk, check_finite, make_plan, steps_of
from biomistral.quantization.calibrated.samples import draw
from biomistral.quantization.calibrated.streams import Stream, keep
from biomistral.quantization.measure.hidden import Readout
from biomistral.quantization.report import REPORT, compare, relative_error
from biomistral.quantization.settings import QuantizeSettings

PROGRESS = "progress.json"


def quantize(work: Workspace) -> None:
    """Write the quantised model, with ``quantization.json``: what it cost.

    Raises:
        UserError: see `make_plan`, `check_disk`, `draw`, `Plan.find_groups` and `run_layer`.
    """
    settings, folder, started = work.settings, work.locate(work.settings.model), time.monotonic()
    plan = make_plan(folder, settings, pick_device(work.machine.device))
    check_disk(plan, work.path)
    count = settings.evaluation_samples + (settings.samples if steps_of(settings).calibrated else 0)
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
    work.counts = {"layers": len(report["layers"]), "tokens": sequences.numel(), "parameters": report["size"]["parameters"]}
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
        around = plan.read_rest()
        skeleton.fill(plan.model, around, plan.compute, plan.device, strict=False)
        plan.model.tie_weights()
        if plan.steps.calibrated:
            plan.find_groups(sequences[0])
        calls = first_hidden(plan.decoder, plan.list_name, sequences[:1].to(plan.device))[1]
        exact, rounded, calibration = self._streams(sequences, len(evaluated))
        self._write(0, around)
        layers = []
        for index in track(range(len(plan.layers)), f"{self.settings.method} layers"):
            errors = self._layer(index, calls[index], exact, calibration)
            self._replay(index, calls[index], rounded)
            layers.append({**errors, "hidden_error": relative_error(exact, rounded)})
        self._write_rest()
        size = self._size()
        return {"method": self.settings.method, "group_size": self.settings.group_size, "bits": self.settings.bits,
                "symmetric": self.settings.symmetric, "layout": self.settings.layout,
                "simulated": self.settings.bits < 4, "mappings": self._mappings(), **self._compare(exact, rounded, evaluated),
                "size": size, "layers": layers}

    def _streams(self, sequences: Tensor, evaluated: int) -> tuple[Stream, Stream, Stream | None]:
        """The first states for the 16-bit and the quantised model, and those of the calibration: made one by one."""
        left = len(sequences) - evaluated
        exact = keep(self._first(sequences[:evaluated]), evaluated, self.out / ".exact.tmp")
        rounded = keep(iter(exact), evaluated, self.out / ".rounded.tmp")
        return exact, rounded, keep(self._first(sequences[evaluated:]), left, self.out / ".calibration.tmp") if left else None

    def _first(self, sequences: Tensor) -> Iterator[Tensor]:
        plan = self.plan
        return (first_hidden(plan.decoder, plan.list_name, tokens[None].to(plan.device))[0] for tokens in sequences)

    def _layer(self, index: int, call: dict[str, Any], exact: Stream, calibration: Stream | None) -> dict[str, Any]:
        """Run the 16-bit layer and, unless its shard is there from an earlier run, write its quantised form."""
        plan, layer = self.plan, self.plan.layers[index]
        tensors = plan.read_layer(index)
        skeleton.fill(layer, tensors, plan.compute, plan.device)
        what = f"{plan.folder}: layer {index} ('{plan.layer_name(index)}')"
        done = self._shard(index + 1).is_file()
        run_layer(layer, call, exact, exact, what)
        groups = plan.groups_of(index) if plan.steps.calibrated else [Group((name,)) for name in linears(layer)]
        with watch(layer, [] if done or calibration is None else [group.consumers[0] for group in groups]) as statistics:
            if calibration is not None:
                run_layer(layer, call, calibration, calibration, what)
        if done:
            errors: dict[str, Any] = self._progress()[str(index)]
            return errors
        skeleton.fill(layer, tensors, torch.float32, plan.device)
        matrices, found = quantize_layer(layer, groups, statistics, plan.scheme, plan.steps, plan.stored)
        errors = {"output_error": found} if found else {}
        prefix = plan.layer_name(index)
        kept = {f"{prefix}.{name}": tensor for name, tensor in layer.state_dict().items()
                if name.removesuffix(".weight") not in matrices}
        for name in list(matrices):
            matrix = matrices.pop(name)
            packed = pack(self.settings.layout, in_four_bits(matrix) if matrix.bits < 4 else matrix, self.settings.symmetric)
            kept |= {f"{prefix}.{name}.{suffix}": tensor for suffix, tensor in packed.items()}
        layer.to("meta")
        write_json(self.out / PROGRESS, {**self._progress(), str(index): errors})
        self._write(index + 1, kept)
        return errors

    def _replay(self, index: int, call: dict[str, Any], hidden: Stream) -> None:
        """Run the layer with the weights that its shard, read back, stands for."""
        plan, layer, prefix = self.plan, self.plan.layers[index], self.plan.layer_name(index) + "."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(self._shard(index + 1)).items()}
        layout = WRITTEN[self.settings.layout]
        for name in layout.layers(tensors):
            parts = {suffix: tensors.pop(f"{name}.{suffix}") for suffix in (*layout.suffixes, *layout.optional)
                     if f"{name}.{suffix}" in tensors}
            tensors[f"{name}.weight"] = layout.unpack(parts).dequantized().to(plan.compute)
        skeleton.fill(layer, tensors, plan.compute, plan.device)
        run_layer(layer, call, hidden, hidden, f"{plan.folder}: layer {index}, quantised")
        layer.to("meta")

    def _compare(self, exact: Stream, rounded: Stream, sequences: Tensor) -> dict[str, Any]:
        """Both models' next-token distributions, from the last layer's hidden states and the tokens (count, T)."""
        finals = [(self._final(exact[index], tokens), self._final(rounded[index], tokens))
                  for index, tokens in enumerate(sequences)]
        read = Readout(self.plan.model)
        return compare((read, read), finals, sequences.to(self.plan.device))

    def _final(self, states: Tensor, tokens: Tensor) -> Tensor:
        """What enters the output head, (T, hidden): whatever the decoder does after its layers."""
        plan = self.plan
        givers = [Giver(layer, states) for layer in plan.layers]
        with standing_in(plan.decoder, plan.list_name, givers), torch.inference_mode():
            final: Tensor = plan.decoder(input_ids=tokens[None].to(plan.device), use_cache=False).last_hidden_state
        return final[0]

    def _mappings(self) -> list[dict[str, Any]]:
        """Who reads the same input, and out of which operation scales were moved into it (None: out of none)."""
        found = {(group.consumers, group.mapping.previous if group.mapping and group.mapping.distinct else None): None
                 for groups in self.plan.groups.values() for group in groups}
        return [{"previous": previous, "consumers": consumers} for consumers, previous in found] if self.plan.steps.scale else []

    def _shard(self, number: int) -> Path:
        """File 0 holds what stands around the layers, file i + 1 layer i."""
        return self.out / f"model-{number + 1:05d}-of-{len(self.plan.layers) + 1:05d}.safetensors"

    def _write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard whole or not at all; floating-point tensors but the groups' scales in the stored precision."""
        placed = {name: (tensor.to(self.plan.stored) if tensor.is_floating_point() and not name.endswith("scale") and
                         not name.endswith("scales") else tensor).cpu().contiguous() for name, tensor in tensors.items()}
        for name, tensor in placed.items():
            check_finite(self.plan.folder, name, tensor)
        temporary = self._shard(number).with_name(f".{self._shard(number).name}.tmp")
        save_file(placed, temporary, metadata={"format": "pt"})
        temporary.replace(self._shard(number))

    def _progress(self) -> dict[str, Any]:
        path = self.out / PROGRESS
        progress: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return progress

    def _write_rest(self) -> None:
        """Everything of the folder that is not weights."""
        shards = [self._shard(number) for number in range(len(self.plan.layers) + 1)]
        places = {name: path.name for name, path in skeleton.Weights(shards).place.items()}
        write_json(self.out / "model.safetensors.index.json",
                   {"metadata": {"total_size": sum(path.stat().st_size for path in shards)}, "weight_map": places})
        config = {key: value for key, value in self.plan.config.items() if key != "torch_dtype"}
        settings = self.settings
        entry = config_entry(settings.layout, settings.group_size, settings.symmetric, max(4, settings.bits), self._ignored())
        write_json(self.out / "config.json", {**config, "dtype": str(self.plan.stored).removeprefix("torch."),
                                              "quantization_config": entry})
        copy_tokenizer(self.plan.folder, self.out)

    def _ignored(self) -> tuple[str, ...]:
        """The linear layers that stay in 16 bits: all outside the decoder layers."""
        return tuple(name for name in linears(self.plan.model) if not name.startswith(
            f"{self.plan.model.base_model_prefix}.{self.plan.list_name}."))

    def _size(self) -> dict[str, Any]:
        """Bytes on disk against 16 bits a parameter; bits a weight with scales and zero points."""
        quantized = sum(linear.weight.numel() for layer in self.plan.layers for linear in linears(layer).values())
        parameters, bits = num_parameters(self.plan.model), max(4, self.settings.bits)
        zeros = 0 if self.settings.symmetric and self.settings.layout == "compressed-tensors" else bits
        size = sum(path.stat().st_size for path in self.out.glob("*.safetensors"))
        return {"parameters": parameters, "quantized_parameters": quantized, "bytes": size, "reference_bytes": 2 * parameters,
                "bits_per_weight": bits + (16 + zeros) / self.settings.group_size, "bits_per_parameter": 8 * size / parameters}
