"""An adapter trained on question-answer text about a set of codes, then asked about them in other words: what did it learn?

    python perf/adapters.py [--method lora|qlora|both] [--epochs 6] [--out FOLDER]

SmolLM2-135M-Instruct is fine-tuned on text about a hundred ICD-10-CM codes and asked MedConceptsQA's hard questions about
them, whose wording the text does not use, and about as many codes of the same kind that it does not name. Stages, questions
and base are the quickstart's. Shown: accuracy by cloze and by letters before and after, and the paired difference with its
95 % interval. It holds if the interval of the taught codes lies above zero. Unseen codes, and letters in minutes on a CPU,
are expected at chance (25 %), and shown for that. A folder given with --out is gone on from after an interruption.
"""

import argparse
import json
import logging
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from biomistral.artifact import Artifact
from biomistral.benchmarks.settings import BenchmarkSettings, TeachSettings
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.settings import ModelSettings
from biomistral.recipe import Input, Settings
from biomistral.reporting.compare import compare
from biomistral.run import execute
from biomistral.training.settings import FinetuneSettings

RESULTS = Path(__file__).parent / "results" / "adapters.json"
KEPT = ("protocol", "scope", "n", "baseline_accuracy", "accuracy", "difference", "low", "high", "p")


def made(artifact: Artifact) -> Input:
    return Input(artifact.path)


def evaluate(model: Input, benchmark: Input, out: Path, name: str) -> Artifact:
    """Ask only about the codes' own task, by cloze and by letters."""
    return execute(EvaluateSettings(model=model, benchmark=benchmark, tasks=["icd10cm_hard"], name=name,
                                    protocols=["cloze-mean", "medconceptsqa-0shot"]), out)


def differences(before: Artifact, after: Artifact) -> list[dict[str, Any]]:
    """Paired differences of the taught and of the untaught codes."""
    rows = [row for row in compare(before.path, after.path) if row["kind"] == "group"]
    return [{name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in KEPT} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["lora", "qlora", "both"], default="both")
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--codes", type=int, default=100, help="codes that are taught")
    parser.add_argument("--max-steps", type=int, default=None, help="fewer steps, to see that it works; nothing is written")
    parser.add_argument("--out", type=Path, default=None, help="folder of the artifacts (default: a temporary one)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("biomistral").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(options, options.out or Path(temporary))
    text = json.dumps(found, indent=1)
    print(text)
    if options.max_steps is None:
        RESULTS.write_text(text + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Make the stages in ``out`` and compare each adapter's model with the base."""
    out.mkdir(parents=True, exist_ok=True)
    base = made(execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), out / "base"))
    teach = TeachSettings(vocabulary="ICD10CM", categories=20, codes=options.codes)
    questions = made(execute(BenchmarkSettings(vocabularies={"ICD10CM": Input("embedded:icd10cm")}, levels=("hard",), limit=40,
                                               teach=teach), out / "questions"))
    before = evaluate(base, questions, out / "results-base", "base")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found: dict[str, Any] = {
        "machine": f"{device}, torch {torch.__version__}", "codes": options.codes, "epochs": options.epochs,
        "max_steps": options.max_steps}
    for method in ["lora", "qlora"] if options.method == "both" else [options.method]:
        settings = FinetuneSettings(model=base, train=(questions,), method=method, learning_rate=2e-3, sequence_length=128,
                                    batch_sequences=2, epochs=options.epochs, max_steps=options.max_steps)
        tuned = execute(settings, out / method)
        rows = differences(before, evaluate(made(tuned), questions, out / f"results-{method}", method))
        cloze = next(row for row in rows if row["protocol"] == "cloze-mean" and row["scope"] == "taught")
        found[method] = {"steps": tuned.manifest["counts"]["steps"], "settings": changed(settings),
                         "seconds": tuned.manifest["facts"]["training_seconds"], "differences": rows,
                         "taught_rise_outside_interval": cloze["low"] > 0}
    return found


def changed(settings: Settings) -> dict[str, Any]:
    """The settings that are not the defaults, without the inputs."""
    return {name: value for name, value in settings.model_dump(exclude_defaults=True).items() if name not in ("model", "train")}


if __name__ == "__main__":
    main()
