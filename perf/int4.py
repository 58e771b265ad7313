"""Models in 4 bits beside the same models in bfloat16 on a CPU: questions, decoding, loading, memory.

    python perf/int4.py                         both shapes, about ten minutes on one core: results/int4.json
    python perf/int4.py --shapes 135m --rounds 3

Weights are random; the 4-bit ones are those rounded to nearest in groups of 128, in both layouts. A round times each form in
turn, in a process of its own with one thread; ratios are of the rounds' medians. ``questions`` are forward passes of the
evaluation's engine: 8 of 95 tokens, and 3-shot ones of 96 tokens behind a shared prefix of 450, by batches as it makes them;
``decode`` is one token after 64 by the model itself; ``loading`` includes the first pass of one token.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from biomistral.models.load import load_model
from biomistral.models.quantized.layouts import LayoutName, config_entry, pack
from biomistral.models.quantized.linear import FEW_ROWS, quantized_layers
from biomistral.models.quantized.matrix import IntMatrix
from biomistral.scoring.engine import Engine, batches

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


def decoding(model: Any) -> float:
    """Seconds a token of one row."""
    with torch.inference_mode():
        cache = DynamicCache()
        model(input_ids=torch.tensor(tokens(1, 64, 0)), past_key_values=cache)
        step = torch.tensor([[5]])
        model(input_ids=step, past_key_values=cache)
        return seconds(lambda: [model(input_ids=step, past_key_values=cache) for _ in range(8)], 2) / 8


def measure(folder: Path) -> dict[str, float]:
    """One form's times (s) and memory (bytes)."""
    torch.set_num_threads(1)
    before = resident()
    began = time.process_time()
    model = load_model(folder, torch.bfloat16)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1]]))
    found = {"loading": time.process_time() - began, "memory_loaded": resident() - before, "decode": decoding(model),
             "memory_decoding": resident() - before}
    engine = Engine(model)
    short, shots = tokens(8, 95, 1), tokens(1, 450, 2)[0]
    questions = tokens(24, 96, 3)
    engine.last_logits(engine.prefix(()), short[:2])
    found["8 x 95"] = seconds(lambda: engine.last_logits(engine.prefix(()), short), 2) / len(short)

    def three_shot() -> None:
        prefix = engine.prefix(shots)
        for batch in batches([engine.cost(96, 450)] * len(questions), engine.max_batch_tokens):
            engine.last_logits(prefix, [questions[index] for index in batch])

    found["3-shot"] = seconds(three_shot) / len(questions)
    found["memory_answering"] = resident() - before
    return found


def crossover(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of a layer's product by rows: the kernel, and dequantised weights."""
    torch.set_num_threads(1)
    model = load_model(folder, torch.bfloat16)
    layers = {f"{layer.out_features} x {layer.in_features}": layer for layer in quantized_layers(model)}
    found: dict[str, dict[str, float]] = {}
    for name, layer in layers.items():
        for rows in (1, 8, 16, 24, 32, 48, 64):
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
            rounds: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
            for _ in range(options.rounds):
                for form in FORMS:
                    rounds[form].append(in_own_process(measure, folder / form))
                    print(shape, form, json.dumps({key: round(value, 4) for key, value in rounds[form][-1].items()}), flush=True)
            median = {form: {key: statistics.median(found[key] for found in rounds[form]) for key in rounds[form][0]}
                      for form in FORMS}
            ratios = {form: {key: round(value / median["bfloat16"][key], 3) for key, value in median[form].items()}
                      for form in FORMS[1:]}
            print(shape, "of bfloat16:", json.dumps(ratios), flush=True)
            size = {form: sum(path.stat().st_size for path in (folder / form).glob("*.safetensors")) for form in FORMS}
            report[shape] = {"median": median, "of_bfloat16": ratios, "bytes_on_disk": size,
                             "products_ms": in_own_process(crossover, folder / "autoawq")}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
