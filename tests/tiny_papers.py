"""Tiny finished folders for the tests of cards and publishing: every kind and form, without weights that compute."""

import json
from pathlib import Path
from typing import Any, ClassVar

from biomistral.artifact import Workspace, input_key
from biomistral.files import write_json, write_text
from biomistral.recipe import Input, StageSettings
from biomistral.records import QUESTION_SCHEMA, write_table
from tiny_results import made, make_chain, make_results


class TinyFinetune(StageSettings):
    kind: ClassVar[str] = "finetune"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_papers:write_finetuned"
    model: Input
    train: list[Input]
    method: str = "lora"
    adapter: Input | None = None
    learning_rate: float = 2e-5


class TinyQuantize(StageSettings):
    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_papers:write_quantized"
    model: Input
    method: str


class TinyMerge(StageSettings):
    kind: ClassVar[str] = "merge"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_papers:write_merged"
    config: Input
    models: dict[str, Input]


class TinyBenchmark(StageSettings):
    kind: ClassVar[str] = "benchmark"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_papers:write_benchmark"
    source: Input
    licence: str = "MIT"


class TinyTranslation(StageSettings):
    kind: ClassVar[str] = "translate"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_papers:write_translation"
    benchmark: Input


def write_finetuned(work: Workspace) -> None:
    write_text(work.path / "config.json", "{}")
    write_text(work.path / "chat_template.jinja", "{{ messages }}")
    (work.path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    folder = work.path / "adapter"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"r": 32, "base_model_name_or_path": "llama-abc"})
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    base = input_key(work.locate(work.settings.model))
    write_json(folder / "base.json", {"name": "llama-abc", "key": base})
    work.counts |= {"trainable_parameters": 4_884_480}
    work.facts |= {"merged_into": {"model": "llama-abc", "key": base}}


CONFIGS = {"awq": {"quant_method": "awq", "bits": 4}, "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True},
           "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True}, "ct": {"quant_method": "compressed-tensors"}}


def write_quantized(work: Workspace) -> None:
    method = work.settings.method
    write_json(work.path / "config.json", {"quantization_config": CONFIGS[method]} if method in CONFIGS else {})
    if method.startswith("gguf:"):
        (work.path / f"model-{method[5:]}.gguf").write_bytes(b"GGUF")
        write_text(work.path / "Modelfile", "FROM ./model")
    work.counts |= {"parameters": 135_000_000}
    work.facts |= {"method": method, "bits": 4, "perplexity": {"reference": 29.04, "quantized": 33.18}, "argmax_flips": 0.19,
                   "kl_divergence": {"mean": 0.179, "p99": 0.66}, "size": {"bytes": 4_000, "reference_bytes": 16_000,
                                                                         "bits_per_weight": 4.3125}}


def write_merged(work: Workspace) -> None:
    write_text(work.path / "config.json", "{}")
    inputs = [{"name": name, "key": "k", "licence": None} for name in work.settings.models]
    write_json(work.path / "merge.json", {"file": work.locate(work.settings.config).read_text(), "inputs": inputs})
    write_text(work.path / "README.md", "written by the merge\n")
    work.counts |= {"parameters": 1234}
    work.facts |= {"method": "slerp", "drift": dict.fromkeys(work.settings.models, 0.125), "sign_conflicts": 0.5}


def _write_questions(work: Workspace, language: str, licence: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"q{number}", "task": "codes|<b>", "language": language, "split": "dev" if number < 2 else "test",
         "stem": f"Q{number}?", "options": ["a", "b"], "answer": "A", "context": None, "meta": json.dumps({})}
        for number in range(12)]
    write_table(work.path / "questions.parquet", rows, QUESTION_SCHEMA)
    write_json(work.path / "benchmark.json", {"name": "tiny", "tasks": {"codes|<b>": {
        "dev": 2, "validation": 0, "test": 10, "licence": licence, "source": "/home/someone/codes.csv"}}})
    work.licences = {licence: 1}


def write_benchmark(work: Workspace) -> None:
    _write_questions(work, "en", work.settings.licence)


def write_translation(work: Workspace) -> None:
    _write_questions(work, "pt", "MIT")
    write_table(work.path / "needs_review.parquet", [], QUESTION_SCHEMA)
    work.facts["translation"] = {"from": "en", "to": "pt", "engines": [{"engine": "api", "model": "gpt-x"}],
                                 "passed": {"codes|<b>": {"sound": 11, "of": 12}}}


def make_papers(folder: Path) -> dict[str, Path]:
    """A chain with one folder of every kind: base, adapted (on a corpus), tuned, merged, quantised, benchmark, translated."""
    chain = make_chain(folder)
    chain["suite"] = made(TinyBenchmark(source=str(chain["benchmark"])), folder / "suite")
    chain["translated"] = made(TinyTranslation(benchmark=str(chain["suite"])), folder / "translated")
    chain["tuned"] = made(TinyFinetune(model=str(chain["adapted"]), train=[str(chain["suite"])]), folder / "tuned")
    file = folder / "slerp.yaml"
    file.write_text(f"merge_method: slerp\nbase_model: {chain['base']}\nother: {chain['adapted']}\n")
    merge = TinyMerge(config=str(file), models={str(chain[name]): str(chain[name]) for name in ("base", "adapted")})
    chain["merged"] = made(merge, folder / "merged")
    for method in ("awq", "nf4", "int8", "ct", "gguf:Q4_0"):
        name = method.replace(":", "-")
        chain[name] = made(TinyQuantize(model=str(chain["tuned"]), method=method), folder / name)
    chain["results"] = make_results(folder, chain, "tuned", "tuned", tasks=2, shot_sets=3, letter="B", mass=0.2,
                                    protocols=("letters-3shot", "cloze-mean"))
    return chain
