"""Peak memory of taking up a model's weights for training: read tensor by tensor, against loaded whole first.

    python perf/loading.py                  # a minute; 500 M parameters made on the spot

Each case runs in processes of its own, forked from one that has imported everything; what is counted is the memory they add
until the weights are ready (resident pages that are no file's, sampled every 2 ms), in bytes a parameter: a trained weight needs
6 (float32 master, bfloat16 copy), a frozen one 2, one in 4 bits about 0.5, and of weights in two parts each process half of 4.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from biomistral.models.load import load_model
from biomistral.models.skeleton import weightless
from biomistral.models.stored import StoredWeights, open_model
from biomistral.training.parallel import Group, joined
from biomistral.training.settings import LoraSettings, QloraSettings
from biomistral.training.weights.lora import add_adapter
from biomistral.training.weights.masters import MasterWeights
from biomistral.training.weights.quantized import quantise
from biomistral.training.weights.sharded import ShardedWeights
from forked import together

CASES = {"full": 1, "lora": 1, "qlora": 1, "full in two parts": 2, "lora in two parts": 2}
"""What is trained, and in how many processes."""


def make_model(folder: Path, layers: int) -> int:
    """Random bfloat16 weights in several files; returns how many."""
    config = LlamaConfig(vocab_size=32000, hidden_size=1536, intermediate_size=4096, num_hidden_layers=layers,
                         num_attention_heads=12, num_key_value_heads=4, tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=200_000_000)
    return sum(parameter.numel() for parameter in model.parameters())


def take_up(folder: Path, case: str, whole: bool, group: Group) -> object:
    """Load a model and make its weights ready, as the training does."""
    model: PreTrainedModel
    stored: StoredWeights | None
    first = torch.bfloat16 if case == "qlora" else torch.float32
    model, stored = (load_model(folder, first), None) if whole else open_model(folder, torch.float32)
    if case == "qlora":
        quantise(model, stored, QloraSettings(), torch.bfloat16, group.device)
    if not case.startswith("full"):
        with weightless(model):
            add_adapter(model, LoraSettings(), 0, "model")
    if group.size > 1:
        return ShardedWeights(model, stored, torch.bfloat16, 0.01, group, group.size)
    return MasterWeights(model, stored, torch.bfloat16, 0.01, group)


def resident() -> int:
    """Bytes of this process's memory that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def peak_of(work: Callable[[], object]) -> int:
    """The most memory that a call adds."""
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = work()
    peak = max(peak, resident())
    done.set()
    watcher.join()
    del kept
    return peak - before


def measure(folder: Path, case: str, whole: bool, size: int) -> list[float]:
    """Peak of each process in bytes, and the seconds it took."""
    def work(rank: int) -> None:
        torch.set_num_threads(1)
        with joined(torch.device("cpu")) as group:
            began = time.perf_counter()
            peak = peak_of(lambda: take_up(folder, case, whole, group))
            (folder / f"{rank}.peak").write_text(json.dumps([peak, time.perf_counter() - began]))

    if size > 1:
        codes = together(size, work, folder / "errors")
    else:
        child = os.fork()
        if child == 0:
            work(0)
            os._exit(0)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
    assert not any(codes), (codes, (folder / "errors").read_text()[-3000:] if size > 1 else "")
    found = [json.loads((folder / f"{rank}.peak").read_text()) for rank in range(size)]
    return [max(peak for peak, _ in found), max(seconds for _, seconds in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        child = os.fork()  # what it leaves in the allocator is not counted
        if child == 0:
            (Path(name) / "parameters").write_text(str(make_model(Path(name), arguments.layers)))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        parameters = int((Path(name) / "parameters").read_text())
        report: dict[str, Any] = {"parameters": parameters, "cases": {}}
        for case, size in CASES.items():
            for label, whole in (("whole first", True), ("tensor by tensor", False)):
                peak, seconds = measure(Path(name), case, whole, size)
                numbers = {"bytes_per_parameter": round(peak / parameters, 2), "gb": round(peak / 1e9, 2),
                           "seconds": round(seconds, 1)}
                report["cases"].setdefault(case, {})[label] = numbers
                print(f"{case:20}{label:20}{numbers}", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
