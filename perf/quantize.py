"""Our quantised models beside llm-compressor's on the same tokens: CPU seconds, peak memory, perplexity and KL divergence.

    python perf/quantize.py --peer-python VENV/bin/python     # SmolLM2-135M, 16 x 512 tokens, groups of 64: a quarter of an hour
    python perf/quantize.py --shape 1.1b --layers 4           # time and memory alone, on random weights of TinyLlama's shape
    python perf/quantize.py --shape 7b --layers 2             # and of Mistral 7B's: few layers: one at a time is in memory

The model is the quickstart's, the text what allofplos's articles say. Each program runs as a fresh process on one thread;
theirs is timed without start-up and loading, ours with both and with its own report on eight sequences. What each made is
measured by the same lines of `peers/next_tokens.py`, on the same sequences, none of which calibrated. The peer's environment:
``pip install llmcompressor``.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from merge import make_checkpoint, measured, shape_for

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))
from next_tokens import measure

from biomistral.artifact import Artifact
from biomistral.corpus.settings import CorpusSettings
from biomistral.models.load import load_model
from biomistral.models.settings import ModelSettings
from biomistral.quantization.calibrated.samples import draw
from biomistral.recipe import Input
from biomistral.run import execute
from tiny import TEXT

RESULTS = Path(__file__).parent / "results" / "quantize.json"
PEER = Path(__file__).parent / "peers" / "llm_compressor.py"
METHODS = ("awq", "awq-gptq", "gptq", "rtn", "nf4", "int8", "gguf:Q4_0", "gguf:Q8_0")
PEERS = {"awq": "awq", "gptq": "gptq", "rtn": "rtn"}
SAMPLES, LENGTH, EVALUATION, GROUP = 16, 512, 8, 64
SHAPES = {"1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                   "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000},
          "7b": shape_for(7.24e9)}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def ours(model: Path, text: Path, method: str, out: Path, group_size: int = GROUP) -> dict[str, Any]:
    """Quantise by the command line, anew."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "biomistral.cli", "quantize", model, "--method", method, "--calibration", text, "--no-speed",
               "--group-size", group_size, "--samples", SAMPLES, "--sequence-length", LENGTH, "--evaluation-samples", EVALUATION,
               "--out", out]
    return dict(measured(command, out.with_suffix(".log"), **ONE_THREAD))


def theirs(python: Path, model: Path, tokens: Path, method: str, work: Path) -> dict[str, Any]:
    """llm-compressor's CPU seconds of the one call that quantises, and how good the result is."""
    out = work / f"peer-{method}.json"
    run = measured([python, PEER, model, tokens, method, GROUP, out], work / f"peer-{method}.log", **ONE_THREAD)
    return {**json.loads(out.read_text()), "process_cpu_s": run["cpu_s"]}


def articles(base: Path, work: Path) -> Path:
    """The licensed ones of the embedded articles, clean and packed, nearly all of them held out."""
    settings = CorpusSettings(sources=[Input("embedded:plos")], tokenizer=Input(str(base)), heldout=0.9)
    return execute(settings, work / "corpus").path


def bytes_of(folder: Path) -> int:
    """The files that hold weights."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".safetensors", ".gguf"))


def against_peer(python: Path | None, methods: tuple[str, ...], rounds: int, work: Path) -> dict[str, Any]:
    """Every method of ours and of the peer's, in turns, on SmolLM2-135M-Instruct."""
    base: Artifact = execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), work / "base")
    text = articles(base.path, work)
    config = json.loads((base.path / "config.json").read_text())
    sequences = draw(text, base.path, config["vocab_size"], LENGTH, SAMPLES + EVALUATION, 0).numpy()
    np.savez(work / "tokens.npz", evaluation=sequences[:EVALUATION], calibration=sequences[EVALUATION:])
    found: dict[str, Any] = {}
    reference = load_model(base.path, torch.bfloat16)
    for method in methods:
        out = work / method.replace(":", "-")
        runs = [ours(base.path, text, method, out)]
        entry: dict[str, Any] = {}
        if python is not None and method in PEERS:
            entry["llm_compressor"] = theirs(python, base.path, work / "tokens.npz", PEERS[method], work)
        runs += [ours(base.path, text, method, out) for _ in range(rounds - 1)]
        quality = measure(reference, load_model(out, torch.bfloat16), torch.from_numpy(sequences[:EVALUATION]))
        entry["ours"] = {**{name: statistics.median(run[name] for run in runs) for name in ("cpu_s", "wall_s", "peak_mb")},
                         "megabytes": bytes_of(out) / 1e6, **quality}
        found[method] = entry
        print(method, json.dumps(entry, indent=1))
    return {"model": "SmolLM2-135M-Instruct", "calibration": [SAMPLES, LENGTH], "evaluation": [EVALUATION, LENGTH],
            "group_size": GROUP, "base_megabytes": bytes_of(base.path) / 1e6, "methods": found}


def with_ratios(entry: dict[str, Any]) -> dict[str, Any]:
    """Beside the peer, from this run or, where only ours ran, from the last one that had it."""
    if "llm_compressor" in entry:
        entry["cpu_ratio"] = entry["llm_compressor"]["cpu_s"] / entry["ours"]["cpu_s"]
        entry["memory_share"] = entry["ours"]["peak_mb"] / entry["llm_compressor"]["peak_mb"]
    return entry


def against_awq(methods: dict[str, Any]) -> dict[str, float]:
    """AWQ's KL divergence as a share of that of the other forms of its size: below 1 it is the closer one."""
    divergence = {method: entry["ours"]["kl_mean"] for method, entry in methods.items() if "ours" in entry}
    return {method: divergence["awq"] / divergence[method] for method in ("rtn", "gptq", "nf4", "awq-gptq")
            if {"awq", method} <= divergence.keys()}


def of_shape(name: str, layers: int | None, method: str, work: Path) -> dict[str, Any]:
    """CPU seconds and peak memory on random weights."""
    shape = SHAPES[name] | ({} if layers is None else {"num_hidden_layers": layers})
    make_checkpoint(work / "model", shape, 0)
    (work / "text.txt").write_text(TEXT * 400)
    run = ours(work / "model", work / "text.txt", method, work / "out", 128)
    print(json.dumps(run, indent=1))
    return {"layers": shape["num_hidden_layers"], "method": method, "model_megabytes": bytes_of(work / "model") / 1e6, **run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="python of an environment with llmcompressor; none: ours alone")
    parser.add_argument("--methods", type=lambda text: tuple(text.split(",")), default=METHODS)
    parser.add_argument("--rounds", type=int, default=2, help="runs of ours, before and after the peer's one")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, help="of --shape; the shape's own number without")
    options = parser.parse_args()
    written = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        if options.shape:
            found = of_shape(options.shape, options.layers, options.methods[0], Path(place))
            written.setdefault("shapes", {})[options.shape] = found
        else:
            found = against_peer(options.peer_python, options.methods, options.rounds, Path(place))
            kept = written.get("smollm2", {}).get("methods", {})
            methods = {method: with_ratios({**kept.get(method, {}), **entry}) for method, entry in found["methods"].items()}
            written["smollm2"] = {**found, "methods": kept | methods, "kl_of_awq_to": against_awq(kept | methods)}
    written["machine"] = f"{platform.machine()}, torch {torch.__version__}, one thread"
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
