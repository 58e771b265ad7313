"""CPU seconds, wall time and memory of our merges beside mergekit 0.1.5's, on checkpoints made on the spot.

    python perf/merge.py                       # five methods, 1.0 B parameters: about twenty minutes, nearly all of it mergekit
    python perf/merge.py --parameters 1e8      # a tenth of the size
    python perf/merge.py --cold --default-threads  # ours on files that are not in memory, beside reading and writing them
    python perf/merge.py --default-threads     # both as they are started by somebody who sets nothing
    python perf/merge.py --seven-b             # ours on two checkpoints of Mistral 7B's shape (14.5 GB each): peak memory

Both run as fresh processes, in turns, one thread each unless --default-threads; the median of each is taken, and the ratio of the
medians quoted. What they wrote is compared element by element, except for DARE, whose masks are random. BLAKE3 of the
inputs, which ours takes the first time it sees a file and then remembers, is measured on its own.
"""

import argparse
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from merge_exact import PEER, peer_python

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from biomistral.merging.checkpoint import Checkpoint, Reader, open_checkpoint
from biomistral.merging.floats import widen
from tiny import make_tokenizer

RESULTS = Path(__file__).parent / "results" / "merge.json"
TASKS = ("merge_method: %s\nmodels:\n  - {model: A}\n  - {model: B, parameters: {weight: 0.5, density: 0.5}}\n"
         "  - {model: C, parameters: {weight: 0.3, density: 0.4}}\nbase_model: A\ndtype: bfloat16\n")
FILES = {
    "slerp": "merge_method: slerp\nmodels: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: 0.4}\ndtype: bfloat16\n",
    "linear": "merge_method: linear\nmodels: [{model: A, parameters: {weight: 0.3}}, {model: B, parameters: {weight: 0.5}}, "
              "{model: C, parameters: {weight: 0.2}}]\ndtype: bfloat16\n",
    "task_arithmetic": (TASKS % "task_arithmetic").replace(", density: 0.5", "").replace(", density: 0.4", ""),
    "dare_ties": TASKS % "dare_ties",
    "ties": TASKS % "ties",
}
TARGETS = {"slerp": 8, "linear": 5, "task_arithmetic": 5, "dare_ties": 10, "ties": 25}


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def shape_for(parameters: float) -> dict[str, int]:
    """Mistral's proportions at about so many parameters; 7.24e9 gives Mistral 7B itself."""
    if parameters > 5e9:
        return {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000}
    hidden = max(64, round(2048 * math.sqrt(parameters / 1e9) / 64) * 64)
    layers = 16
    return {"hidden_size": hidden, "intermediate_size": hidden * 7 // 2, "num_hidden_layers": layers,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": hidden // 32, "vocab_size": 32000}


def tensors_of(shape: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Mistral checkpoint's tensors."""
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        yield from ((start + name, size) for name, size in (
            ("self_attn.q_proj.weight", (queries, hidden)), ("self_attn.k_proj.weight", (keys, hidden)),
            ("self_attn.v_proj.weight", (keys, hidden)), ("self_attn.o_proj.weight", (hidden, queries)),
            ("mlp.gate_proj.weight", (inner, hidden)), ("mlp.up_proj.weight", (inner, hidden)),
            ("mlp.down_proj.weight", (hidden, inner)), ("input_layernorm.weight", (hidden,)),
            ("post_attention_layernorm.weight", (hidden,))))
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (shape["vocab_size"], hidden)


def make_checkpoint(folder: Path, shape: dict[str, int], number: int, holes: bool = False) -> None:
    """Random weights; number 0 is the base, the others lie at a tenth of its size around it. ``holes``: zeros that take no
    room on the disk, enough to measure memory."""
    if (folder / "made").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    make_tokenizer(folder)
    config = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "max_position_embeddings": 2048, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
              "rope_theta": 10000.0, "torch_dtype": "bfloat16", **shape}
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, size in tensors_of(shape):
        if sum(map(math.prod, shards[-1].values())) > 2.4e9:
            shards.append({})
        shards[-1][name] = size
    names = ["model.safetensors"] if len(shards) == 1 else [
        f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, number, holes)
    if len(names) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "made").touch()


def _write_shard(path: Path, shard: dict[str, tuple[int, ...]], number: int, holes: bool) -> None:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shard.items():
        entries[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [end, end := end + 2 * math.prod(size)]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        if holes:
            stream.truncate(8 + len(header) + end)
            return
        for index, (_, size) in enumerate(shard.items()):
            base, other = (torch.Generator().manual_seed(1000 * source + index) for source in (0, number))
            left = math.prod(size)
            while left:
                count = min(left, 1 << 22)
                values = torch.randn(count, generator=base).mul_(0.02)
                if number:
                    values.add_(torch.randn(count, generator=other), alpha=0.002)
                stream.write(memoryview(values.bfloat16().view(torch.uint8).numpy()))
                left -= count


# ---- running --------------------------------------------------------------------------------------------------------


def measured(command: list[Any], log: Path, **environment: str) -> dict[str, float]:
    """Run a process; its CPU seconds with its children's, wall seconds and peak resident megabytes."""
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen([str(word) for word in command], stdout=stream, stderr=subprocess.STDOUT,
                                   env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})
        peak, pid = 0, 0
        while not pid:  # ru_maxrss would count this process too: a child begins as its copy
            peak = max(peak, resident_peak(process.pid))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{log.read_text()[-3000:]}")
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "user_s": usage.ru_utime, "system_s": usage.ru_stime,
            "wall_s": time.perf_counter() - started, "peak_mb": peak / 1024}


def resident_peak(pid: int) -> int:
    """Most kilobytes a running process has held so far; 0 once it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0


class Bench:
    """A folder of checkpoints, and both programs on them."""

    def __init__(self, work: Path, peer: Path, parameters: float, one_thread: bool = True) -> None:
        self.work, self.peer, self.shape = work, peer, shape_for(parameters)
        self.parameters = sum(math.prod(size) for _, size in tensors_of(self.shape))
        self.threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
        self.environment = {"XDG_CACHE_HOME": str(work / "cache"), **self.threads}

    def make(self, names: str) -> None:
        for name in names:
            make_checkpoint(self.work / name, self.shape, "ABC".index(name))

    def config(self, method: str) -> Path:
        path, text = self.work / f"{method}.yaml", FILES[method]
        for name in "ABC":
            text = text.replace(f"model: {name}", f"model: {self.work / name}")
        path.write_text(text)
        return path

    def ours(self, method: str, *options: str) -> dict[str, float]:
        out = self.work / "ours"
        shutil.rmtree(out, ignore_errors=True)
        return measured([sys.executable, "-m", "biomistral.cli", "merge", self.config(method), "--out", out,
                         *(["--workers", "1"] if self.threads else []), *options], self.work / "ours.log", **self.environment)

    def theirs(self, method: str) -> dict[str, float]:
        out = self.work / "theirs"
        shutil.rmtree(out, ignore_errors=True)
        return measured([self.peer.with_name("mergekit-yaml"), self.config(method), out, "--quiet"], self.work / "theirs.log",
                        **self.threads)

    def hash_inputs(self) -> dict[str, float]:
        """What ours spends once on a new file."""
        shutil.rmtree(self.work / "cache" / "biomistral" / "blake3", ignore_errors=True)
        return measured([sys.executable, "-c", HASH, *(self.work / name for name in "ABC")], self.work / "hash.log",
                        **self.environment)

    def compile_loops(self) -> dict[str, float]:
        """What ours spends once on a new processor: every loop for bfloat16."""
        shutil.rmtree(self.work / "cache" / "biomistral" / "loops", ignore_errors=True)
        return measured([sys.executable, "-c", COMPILE], self.work / "compile.log", **self.environment)


# ---- comparing ------------------------------------------------------------------------------------------------------


def compare(first: Path, second: Path) -> dict[str, float]:
    """Share of equal elements, and the largest distance relative to the tensor's largest element."""
    one, other = open_checkpoint("ours", first), open_checkpoint("theirs", second)
    assert one.tensors.keys() == other.tensors.keys(), sorted(one.tensors.keys() ^ other.tensors.keys())
    equal = total = 0
    farthest = 0.0
    for name in one.tensors:
        same, distance, largest = _compare_tensor(one, other, name)
        equal, total = equal + same, total + one.tensors[name].numel
        farthest = max(farthest, distance / largest)
    return {"equal": equal / total, "max_relative_to_largest": farthest}


def _compare_tensor(one: Checkpoint, other: Checkpoint, name: str) -> tuple[int, float, float]:
    reader, chunk = Reader(2), 1 << 20
    first, second = one.tensors[name], other.tensors[name]
    assert (first.shape, first.dtype) == (second.shape, second.dtype), name
    same, distance, largest = 0, 0.0, 0.0
    for start in range(0, first.numel, chunk):
        count = min(chunk, first.numel - start)
        a, b = (widen(reader.read(slot, name, stored, start, count), stored.dtype) for slot, stored in enumerate((first, second)))
        same += int((a == b).sum())
        distance = max(distance, float(np.abs(a - b).max()))
        largest = max(largest, float(np.abs(b).max()))
    reader.close()
    return same, distance, largest


def hash_seconds(folder: Path) -> float:
    """CPU seconds of the BLAKE3 that ours takes of its result for the manifest, and mergekit does not."""
    started = time.process_time()
    for path in folder.glob("*.safetensors"):
        blake3().update_mmap(path)
    return time.process_time() - started


# ---- what is measured -----------------------------------------------------------------------------------------------


def against_peer(bench: Bench, methods: list[str], repeats: int) -> dict[str, Any]:
    bench.make("ABC")
    found: dict[str, Any] = {"hashing_three_inputs_once": bench.hash_inputs()}
    found["compiling_all_loops_once"] = bench.compile_loops()
    print(f"compiling all loops for bfloat16, once: {found['compiling_all_loops_once']['cpu_s']:.1f} CPU s", flush=True)
    print(f"BLAKE3 of three inputs, once: {found['hashing_three_inputs_once']['cpu_s']:.1f} CPU s", flush=True)
    for method in methods:
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for _ in range(repeats):
            runs["theirs"].append(bench.theirs(method))
            runs["ours"].append(bench.ours(method))
        ours, theirs = ({key: statistics.median(run[key] for run in runs[who]) for key in runs[who][0]} for who in runs)
        row = {"ours": ours, "mergekit": theirs, "runs": runs, "target": TARGETS[method],
               "cpu_ratio": theirs["cpu_s"] / ours["cpu_s"], "wall_ratio": theirs["wall_s"] / ours["wall_s"],
               "memory_ratio": theirs["peak_mb"] / ours["peak_mb"]}
        if not method.startswith("dare"):
            row["results"] = compare(bench.work / "ours", bench.work / "theirs")
        row["hash_of_result_cpu_s"] = hash_seconds(bench.work / "ours")
        row["cpu_ratio_without_hash"] = theirs["cpu_s"] / (ours["cpu_s"] - row["hash_of_result_cpu_s"])
        found[method] = row
        print(f"{method:16} mergekit {theirs['cpu_s']:6.1f} CPU s {theirs['peak_mb']:6.0f} MB   ours {ours['cpu_s']:5.2f} CPU s "
              f"{ours['peak_mb']:4.0f} MB   {row['cpu_ratio']:5.1f}x ({row['cpu_ratio_without_hash']:.1f}x without BLAKE3; "
              f"target {TARGETS[method]}x), memory 1/{row['memory_ratio']:.1f}"
              + (f", {row['results']['equal']:.4%} equal" if "results" in row else ""), flush=True)
        keep("against_mergekit" if bench.threads else "against_mergekit_default_threads", bench, found)
    return found


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache, once they are on the disk."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


HASH = """
import sys
from pathlib import Path
from biomistral.files import content_digest
for place in sys.argv[1:]:
    content_digest(Path(place))
"""
COMPILE = """
from biomistral.merging.floats import Float
from biomistral.merging.fused.native import SIGNATURES, prepare
for name in SIGNATURES:
    prepare(name, Float.BF16)
"""
COPY = """
import os, sys
buffer = memoryview(bytearray(1 << 22))
out = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
for path in sys.argv[2:]:
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    while count := os.readv(file, [buffer]):
        if path == sys.argv[2]:
            os.write(out, buffer[:count])
"""


def cold(bench: Bench, methods: list[str], repeats: int) -> dict[str, Any]:
    """Ours on files out of memory, beside a process that only reads all of them and writes one."""
    bench.make("ABC")
    bench.hash_inputs()
    found: dict[str, Any] = {}
    for method in methods:
        names = "AB" if method == "slerp" else "ABC"
        files = [str(path) for name in names for path in sorted((bench.work / name).glob("*.safetensors"))]
        runs: dict[str, list[dict[str, float]]] = {"floor": [], "ours": []}
        for _ in range(repeats):
            for who in runs:
                forget(bench.work)
                runs[who].append(bench.ours(method) if who == "ours" else measured(
                    [sys.executable, "-c", COPY, bench.work / "copy", *files], bench.work / "copy.log"))
        (bench.work / "copy").unlink()
        wall = {who: statistics.median(run["wall_s"] for run in several) for who, several in runs.items()}
        found[method] = {"runs": runs, "wall_ratio": wall["ours"] / wall["floor"]}
        print(f"{method:16} cold: ours {wall['ours']:.1f} s, reading {len(names)} and writing 1 {wall['floor']:.1f} s: "
              f"{found[method]['wall_ratio']:.2f} times", flush=True)
    return found


def seven_b(bench: Bench) -> dict[str, Any]:
    """Peak memory on a pair of Mistral 7B's shape; where three of them do not fit on the disk, the pair is made of holes."""
    free = shutil.disk_usage(bench.work).free
    holes = free < 1.2 * 3 * 2 * bench.parameters and not (bench.work / "B" / "made").is_file()
    if free < 1.2 * 2 * bench.parameters:
        raise SystemExit(f"{bench.work}: {free / 1e9:.0f} GB are free, not enough even for the result; choose another --work")
    for number, name in enumerate("AB"):
        make_checkpoint(bench.work / name, bench.shape, number, holes)
    found: dict[str, Any] = {"inputs_are_holes": holes}
    for method in ("slerp", "ties"):
        text = FILES[method].replace("  - {model: C, parameters: {weight: 0.3, density: 0.4}}\n", "")
        FILES[method] = text
        found[method] = bench.ours(method)
        shutil.rmtree(bench.work / "ours")
        print(f"{method:16} two of {bench.parameters / 1e9:.2f} B: {found[method]['cpu_s']:.0f} CPU s, "
              f"{found[method]['wall_s']:.0f} s, peak {found[method]['peak_mb']:.0f} MB", flush=True)
    return found


def keep(kind: str, bench: Bench, found: dict[str, Any]) -> None:
    """Add to the results file; what it has of other methods stays."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept[kind] = kept.get(kind, {}) | found | {"parameters": bench.parameters, "peer": PEER, "torch": torch.__version__,
                                               "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared"}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--methods", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--seven-b", action="store_true")
    parser.add_argument("--default-threads", action="store_true")
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "venv-mergekit")
    parser.add_argument("--work", type=Path, help="where the checkpoints are made and kept (default: a folder that is removed)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work, arguments.peer, 7.24e9 if arguments.seven_b else arguments.parameters,
                      not arguments.default_threads)
        if arguments.seven_b:
            kind, found = "seven_b", seven_b(bench)
        elif arguments.cold:
            kind = "cold" if arguments.default_threads else "cold_one_thread"
            found = cold(bench, arguments.methods, arguments.repeats)
        else:
            bench.peer = peer_python(arguments.peer)
            kind = "against_mergekit_default_threads" if arguments.default_threads else "against_mergekit"
            found = against_peer(bench, arguments.methods, arguments.repeats)
        keep(kind, bench, found)


if __name__ == "__main__":
    main()
