"""Add to a quantised model's report what its maker has not measured: text, questions, and on demand memory and speed.

A maker only has to write a folder that `load_model` reads and its part of ``quantization.json``. What depends on the settings
and inputs alone goes into that file; what this machine adds to it, seconds and bytes of memory, into the manifest's facts.
"""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.limits import available_memory_bytes
from biomistral.models.folder import read_config, weight_files
from biomistral.models.load import load_model, load_tokenizer, pick_device
from biomistral.models.skeleton import Weights
from biomistral.quantization.calibrated.samples import draw
from biomistral.quantization.measure.answers import ask, compare_answers, groups_of, seconds_per_question
from biomistral.quantization.measure.speed import measured
from biomistral.quantization.measure.text import compare_text
from biomistral.quantization.report import REPORT
from biomistral.quantization.settings import QuantizeSettings
from biomistral.scoring.groups import Group, context_length
from biomistral.scoring.tally import Row


@dataclass(frozen=True)
class Prepared:
    """What a model will be measured on, read and checked before it is quantised."""

    original: Path
    dtype: torch.dtype
    device: torch.device
    text: Tensor | None
    groups: list[Group]


def compute_dtype(folder: Path) -> torch.dtype:
    """bfloat16 if a model's matrices are stored so, else float32: float16 is 20 times slower than float32 on a CPU."""
    weights = Weights(weight_files(folder))
    matrices = (name for name in sorted(weights.place) if len(weights.shape(name)) == 2)
    return torch.bfloat16 if {weights.dtype(name) for name in matrices} == {torch.bfloat16} else torch.float32


def prepare(work: Workspace) -> Prepared:
    """
    Raises:
        UserError: the text is too short, the questions are not sound or do not fit the model, or there is no memory for the
            16-bit model that is to be asked them.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    dtype, device = compute_dtype(folder), pick_device(work.machine.device)
    groups = []
    if settings.questions is not None:
        _check_memory(folder, dtype, device)
        groups = groups_of(work.locate(settings.questions), folder, settings)
    text = None if settings.calibration is None or settings.calibrates else _text(work, folder, settings)
    return Prepared(folder, dtype, device, text, groups)


def _text(work: Workspace, folder: Path, settings: QuantizeSettings) -> Tensor:
    """The same sequences that calibrated methods are measured on: of all that are drawn, the first."""
    assert settings.calibration is not None
    config, length = read_config(folder), settings.sequence_length
    longest = context_length(config)
    if longest is not None and length > longest:
        raise UserError(f"sequence_length {length} is longer than the model's {longest} positions; lower it")
    return draw(work.locate(settings.calibration), folder, config["vocab_size"], length, settings.evaluation_samples,
                settings.seed)


def _check_memory(folder: Path, dtype: torch.dtype, device: torch.device) -> None:
    need = sum(path.stat().st_size for path in weight_files(folder)) * (2 if dtype == torch.float32 else 1)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()
    if need > free:
        raise UserError(f"questions: asking {folder} takes {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; leave "
                        "them out, and compare with 'biomistral evaluate' where there is more")


def measure(work: Workspace, prepared: Prepared) -> None:
    """Complete ``quantization.json`` and the manifest's facts; what is there from an earlier run is not measured again."""
    path = work.path / REPORT
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if prepared.text is not None and "perplexity" not in report:
        quantized = load_model(work.path, prepared.dtype, prepared.device)
        report |= compare_text(prepared.original, quantized, prepared.text, prepared.dtype)
        del quantized
        gc.collect()
        write_json(path, report)
    if prepared.groups and "questions" not in report:
        settings: QuantizeSettings = work.settings
        reference, answers = (_answers(place, prepared) for place in (prepared.original, work.path))
        report["questions"] = {"protocol": settings.protocol, "split": settings.split, "limit": settings.limit or None,
                               **compare_answers(reference, answers, settings.seed)}
        work.facts["seconds_per_question"] = {"reference": seconds_per_question(reference),
                                              "quantized": seconds_per_question(answers)}
        write_json(path, report)
    work.facts |= report
    if work.machine.speed:
        name = str(prepared.dtype).removeprefix("torch.")
        work.facts["speed"] = {what: measured(place, work.machine.device, name)
                               for what, place in (("reference", prepared.original), ("quantized", work.path))}


def _answers(place: Path, prepared: Prepared) -> list[Row]:
    model = load_model(place, prepared.dtype, prepared.device)
    rows = list(ask(model, load_tokenizer(prepared.original), prepared.groups, place.name))
    del model
    gc.collect()
    return rows
