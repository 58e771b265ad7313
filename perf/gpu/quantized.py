"""The paper's table of light models (bf16, AWQ, bitsandbytes in 4 and 8 bits) at Mistral 7B's shape: memory, time of questions.

    python perf/gpu/quantized.py                 a GPU with 24 GB or more, 23 GB of disk: results/gpu_quantized.json
    python perf/gpu/quantized.py --tiny          the same on a CPU in seconds, to see that it works; writes nothing

Weights are random and made on the device; the 4-bit ones are rounded to nearest in groups of 128 in AutoAWQ's layout, which
takes the memory and the time of AWQ's own. Each form is asked 3-shot questions in a process of its own: 96 tokens behind 450
shared ones, by the evaluation's engine; and 0-shot ones of 96 tokens. The paper has 1.41 times bf16's time for AWQ, 3.25 and
4.34 for bitsandbytes; to reach with AWQ: 1.0.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from pretrain import MISTRAL_7B, TINY

from biomistral.models.load import load_model
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Input, Machine
from biomistral.run import execute
from biomistral.scoring.engine import Engine, batches
from tiny import TEXT, make_tokenizer

RESULTS = Path(__file__).parent.parent / "results" / "gpu_quantized.json"
METHODS = {"awq": "rtn", "nf4": "nf4", "int8": "int8"}
PROMPT, SHOTS = 96, 450


def make_base(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Random weights in bfloat16, with a tokenizer that the stage can read."""
    torch.manual_seed(0)
    make_tokenizer(folder)
    with torch.device(device):
        MistralForCausalLM._from_config(MistralConfig(**shape), dtype=torch.bfloat16).save_pretrained(folder)


def make_form(base: Path, method: str, text: Path, out: Path, device: str) -> dict[str, float]:
    """Quantise by the stage; seconds it took."""
    started = time.perf_counter()
    settings = QuantizeSettings(model=Input(str(base)), calibration=Input(str(text)) if method == "rtn" else None, method=method,
                                group_size=32 if method == "rtn" and device == "cpu" else 128, samples=1, sequence_length=64,
                                evaluation_samples=1)
    execute(settings, out, Machine(device=device))
    return {"seconds_to_make": time.perf_counter() - started}


def _tokens(count: int, length: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(row) for row in torch.randint(3, vocabulary, (count, length), generator=generator).tolist()]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ask(folder: Path, device: str, count: int) -> dict[str, float]:
    """Seconds a question, 0-shot and 3-shot, the better of two runs after a first; gigabytes at most."""
    model = load_model(folder, torch.bfloat16, torch.device(device))
    engine, vocabulary = Engine(model), model.config.vocab_size
    questions, found = _tokens(count, PROMPT, vocabulary, 1), {}
    for name, shots in (("0-shot", ()), ("3-shot", _tokens(1, SHOTS, vocabulary, 2)[0])):
        times = []
        for _ in range(3):
            _wait(device)
            started = time.perf_counter()
            prefix = engine.prefix(shots)
            for batch in batches([engine.cost(PROMPT, len(shots))] * count, engine.max_batch_tokens):
                engine.last_logits(prefix, [questions[index] for index in batch])
            _wait(device)
            times.append((time.perf_counter() - started) / count)
        found[f"{name}, seconds a question"] = min(times[1:])
    if device != "cpu":
        found |= {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--base", type=Path, help="a folder with a model of this shape that questions.py made")
    options = parser.parse_args()
    device, shape, count = ("cpu", TINY, 4) if options.tiny else ("cuda", MISTRAL_7B, options.questions)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        place = Path(name)
        (place / "text.txt").write_text(TEXT * 20)
        if options.base:
            (place / "bf16").symlink_to(options.base.absolute(), target_is_directory=True)
        else:
            pool.apply(make_base, (place / "bf16", shape, device))
        for form in ("bf16", *METHODS):
            made = {} if form == "bf16" else pool.apply(
                make_form, (place / "bf16", METHODS[form], place / "text.txt", place / form, device))
            size = sum(path.stat().st_size for path in (place / form).glob("*.safetensors"))
            report[form] = {"disk_gb": size / 1e9, **made, **pool.apply(ask, (place / form, device, count))}
            for shots in ("0-shot", "3-shot"):
                key = f"{shots}, seconds a question"
                report[form][f"{shots}, relative time"] = report[form][key] / report["bf16"][key]
            if form != "bf16":
                shutil.rmtree(place / form)  # all four together are 31 GB
            print(form, json.dumps(report[form]), flush=True)
    if not options.tiny:
        report["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
