"""Models in 4 bits beside the same models in bfloat16 on a CPU: questions, decoding, loading, memory.

    python perf/int4.py                         both shapes, about ten minutes on one core: results/int4.json
    python perf/int4.py --shapes 135m --rounds 3    one of them anew

Weights are random; the 4-bit ones are those rounded to nearest in groups of 64 or 128, in both layouts. Times are CPU seconds on
one thread: the forms are timed in turns in one process, and the fastest round counts, as what else a machine does only adds.
``0-shot`` and ``3-shot`` are forward passes of the evaluation's engine: 42 questions of 95 tokens, alone and behind a shared
prefix of 450, in batches as it makes them, and ``8 x 95`` a batch of eight; ``decode`` is one token after 64 by the model itself;
``loading`` includes the first pass. Memory is that of a process of the form's own.
"""

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from biomistral.models.load import load_model
from biomistral.models.quantized.layouts import LayoutName, config_entry, pack
from biomistral.models.quantized.linear import FEW_ROWS, quantized_layers
from biomistral.models.quantized.matrix import IntMatrix
from biomistral.scoring.engine import batches
from biomistral.scoring.lean.engine import engine_for

RESULTS = Path(__file__).parent / "results" / "int4.json"
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "1.1b": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
             "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False}}
GROUP = {"135m": 64, "1.1b": 128}
FORMS = ("bfloat16", "autoawq", "compressed-tensors")


def rounded(weight: torch.Tensor, group_size: int) -> IntMatrix:
    """A matrix rounded to nearest in groups, with zero points."""
    grouped = weight.float().unflatten(1, (-1, group_size))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    levels = (grouped / scales + zeros).round().clamp(0, 15)
    return IntMatrix(levels.flatten(1).to(torch.uint8), zeros[..., 0].to(torch.uint8), scales[..., 0].half())


def make_models(folder: Path, shape: str) -> None:
    """A folder for each form."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=2048)
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "bfloat16")
    group = GROUP[shape]
    layout: LayoutName
    for layout in ("autoawq", "compressed-tensors"):
        tensors = dict(model.state_dict())
        if config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            matrix = rounded(tensors.pop(name), group)
            tensors |= {f"{name.removesuffix('.weight')}.{suffix}": value
                        for suffix, value in pack(layout, matrix, False).items()}
        (folder / layout).mkdir()
        save_file(tensors, folder / layout / "model.safetensors", metadata={"format": "pt"})
        entry = {**json.loads((folder / "bfloat16" / "config.json").read_text()),
                 "quantization_config": config_entry(layout, group, False, 4)}
        (folder / layout / "config.json").write_text(json.dumps(entry))


def resident() -> int:
    """Bytes of this process's memory, mapped files too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of a call, the least of some."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def tokens(count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(row) for row in torch.randint(3, 32000, (count, length), generator=generator).tolist()]


def memory(folder: Path) -> dict[str, float]:
    """One form's loading (s) and memory (bytes)."""
    torch.set_num_threads(1)
    before = resident()
    began = time.process_time()
    model = load_model(folder, torch.bfloat16)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1]]))
    found = {"loading": time.process_time() - began, "memory_loaded": resident() - before}
    engine = engine_for(model)
    engine.last_logits(engine.prefix(()), tokens(8, 95, 1))
    return {**found, "memory_answering": resident() - before}


def decoding(folder: Path) -> Callable[[], object]:
    """Eight tokens of one row, one after the other."""
    model, cache, step = load_model(folder, torch.bfloat16), DynamicCache(), torch.tensor([[5]])

    def decode() -> None:
        with torch.inference_mode():
            for _ in range(8):
                model(input_ids=step, past_key_values=cache)

    with torch.inference_mode():
        model(input_ids=torch.tensor(tokens(1, 64, 0)), past_key_values=cache)
    return decode


def questions(folder: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Eight short ones, 42 of them and 42 behind three shots, in batches as the evaluation makes them."""
    engine = engine_for(load_model(folder, torch.bfloat16))
    short, shots = tokens(42, 95, 1), tokens(1, 450, 2)[0]

    def ask(count: int, behind: tuple[int, ...]) -> None:
        prefix = engine.prefix(behind)
        for batch in batches([engine.cost(95, len(behind))] * count, engine.max_batch_tokens):
            engine.last_logits(prefix, [short[index] for index in batch], keep=False)

    return {"8 x 95": (partial(ask, 8, ()), 8), "0-shot": (partial(ask, 42, ()), 42), "3-shot": (partial(ask, 42, shots), 42)}


def in_turns(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds a token or question of each form, the least of some rounds after a first."""
    torch.set_num_threads(1)
    work: dict[str, dict[str, tuple[Callable[[], object], int]]] = {}
    for form in FORMS:
        work[form] = {"decode": (decoding(folder / form), 8), **questions(folder / form)}
    found: dict[str, dict[str, float]] = {form: dict.fromkeys(parts, float("inf")) for form, parts in work.items()}
    for number in range(rounds + 1):
        for name in ("decode", "8 x 95", "0-shot", "3-shot"):
            for form, parts in work.items():
                call, count = parts[name]
                took = seconds(call) / count
                found[form][name] = min(found[form][name], took if number else float("inf"))
    return found


def crossover(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of a layer's product by rows: the kernel, and dequantised weights."""
    torch.set_num_threads(1)
    model = load_model(folder, torch.bfloat16)
    layers = {f"{layer.out_features} x {layer.in_features}": layer for layer in quantized_layers(model)}
    found: dict[str, dict[str, float]] = {}
    for name, layer in layers.items():
        for rows in (1, 4, 8, 12, 16, 24, 32):
            x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
            for label, few in (("dequantised", 0), ("kernel", 1 << 30)):
                layer.few_rows = few
                layer(x)
                took = seconds(lambda x=x, layer=layer: layer(x), 15)
                found.setdefault(name, {})[f"{rows} rows, {label}"] = round(1e3 * took, 3)
            layer.few_rows = FEW_ROWS
    return found


def in_own_process(work: Callable[..., Any], *arguments: object) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="135m,1.1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": f"{platform.machine()}, torch {torch.__version__}, one thread", "few_rows": FEW_ROWS}
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            in_own_process(make_models, folder, shape)
            times = in_own_process(in_turns, folder, options.rounds)
            found = {form: {**times[form], **in_own_process(memory, folder / form)} for form in FORMS}
            ratios = {form: {key: round(value / found["bfloat16"][key], 3) for key, value in found[form].items()}
                      for form in FORMS[1:]}
            print(shape, json.dumps(found), "of bfloat16:", json.dumps(ratios), flush=True)
            size = {form: sum(path.stat().st_size for path in (folder / form).glob("*.safetensors")) for form in FORMS}
            report[shape] = {"found": found, "of_bfloat16": ratios, "bytes_on_disk": size,
                             "products_ms": in_own_process(crossover, folder / "autoawq")}
    if options.out.is_file():
        report = {**json.loads(options.out.read_text(encoding="utf-8")), **report}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
