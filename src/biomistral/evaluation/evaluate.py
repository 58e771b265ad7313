"""The ``evaluate`` stage: ask, score, record every answer, resume where it was cut off, summarise."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from biomistral.artifact import Workspace, input_key
from biomistral.evaluation.answering import answer_all
from biomistral.evaluation.plan import Plan, make_plan
from biomistral.evaluation.summary import summarise, warnings
from biomistral.files import write_json
from biomistral.models.folder import read_config
from biomistral.models.load import load_model, load_tokenizer, num_parameters, pick_device
from biomistral.progress import log
from biomistral.recipe import canonical_hash
from biomistral.records import ANSWER_SCHEMA, Question, write_table
from biomistral.scoring.engine import Engine
from biomistral.scoring.groups import context_length
from biomistral.scoring.prompts import PROTOCOLS
from biomistral.scoring.questions import read_benchmark
from biomistral.scoring.tally import Row

_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")


def evaluate(work: Workspace) -> None:
    """Write ``answers.parquet`` and ``results.json`` of one model on one benchmark (docs/formats.md, Results folder).

    Raises:
        UserError: the model, benchmark or protocols do not fit one another (before any weight is loaded), or the model
            computes NaN.
    """
    settings, folder = work.settings, work.locate(work.settings.model)
    place = work.locate(settings.benchmark)
    config, tokenizer, questions = read_config(folder), load_tokenizer(folder), read_benchmark(place)
    plan = make_plan(questions, settings, tokenizer, context_length(config))
    name = settings.name or folder.absolute().name
    device = pick_device(work.machine.device)
    model = load_model(folder, pick_dtype(settings.dtype, device), device)
    facts = {"name": name, "key": input_key(folder), "parameters": num_parameters(model),
             "dtype": str(model.dtype).removeprefix("torch."),
             "quantization": (config.get("quantization_config") or {}).get("quant_method")}

    parts = list(answer_all(work.path / "parts", plan.groups, Engine(model, settings.max_batch_tokens), tokenizer, name))
    template = tokenizer.chat_template if any(PROTOCOLS[protocol].chat for protocol in settings.protocols) else None
    if template:
        facts["chat_template"] = canonical_hash(template)
    rows = _in_order(parts, settings.protocols, questions)
    write_table(work.path / "answers.parquet", rows, ANSWER_SCHEMA)
    protocols = summarise(rows)
    about = _about(place)
    benchmark = {"name": about.get("name") or place.absolute().stem, "key": input_key(place), "split": settings.split,
                 "limit": settings.limit or None}
    found = [*warnings(name, protocols), *_lengths(name, plan, rows)]
    for warning in found:
        log.warning(warning)
    write_json(work.path / "results.json", {"model": facts, "benchmark": benchmark, "protocols": protocols, "warnings": found,
                                             "left_out": [list(one) for one in plan.left_out]})
    shutil.rmtree(work.path / "parts")
    tasks = dict.fromkeys(row["task"] for row in rows)
    work.counts = {"answers": len(rows), "questions": len({row["question"] for row in rows}), "tasks": len(tasks)}
    work.licences = Counter(entry["licence"] for task, entry in about.get("tasks", {}).items()
                            if task in tasks and entry.get("licence"))
    work.facts = {"model": facts, "warnings": found}


def _lengths(name: str, plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What became of the prompts that are longer than the model reads."""
    lines = [f"{name}: {protocol}: {count} prompts are longer than the model reads, their questions were left out"
             for protocol, count in Counter(protocol for protocol, _, _ in plan.left_out).items()]
    fewer = Counter(row["protocol"] for row in rows if row["shots"] < PROTOCOLS[row["protocol"]].shots)
    return lines + [f"{name}: {protocol}: {count} prompts were longer than the model reads and got fewer shots"
                    for protocol, count in fewer.items()]


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on processors that multiply it in hardware; elsewhere it is slower than float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(able.get(feature) for feature in _FAST_BFLOAT16) else torch.float32


def _about(place: Path) -> dict[str, Any]:
    file = place / "benchmark.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if place.is_dir() and file.is_file() else {}


def _in_order(rows: list[Row], protocols: Sequence[str], questions: Sequence[Question]) -> list[Row]:
    """Rows by protocol as asked for, by shot set, by permutation, then as the questions stand in the benchmark."""
    places = {question.id: number for number, question in enumerate(questions)}
    return sorted(rows, key=lambda row: (protocols.index(row["protocol"]), row["shot_set"], row["permutation"],
                                         places[row["question"]]))
