"""Tokens a second of our training step and of a plain transformers loop with bfloat16 autocast, on a CPU.

    python perf/pretrain_cpu.py [--rounds 3] [--threads 1]

Both train a randomly initialised model of SmolLM2-135M's shape (same weights) on the same 4 x 512 tokens: float32 weights, AdamW
fused, norm clipped. Each runs in a process of its own; they take steps in turns, the first of each is not counted. A third
process runs the plain loop with the C library told to keep freed memory, as ours tells it: what is left is arithmetic. CPU
seconds are of the process (user and system); the ratio of medians is quoted. Written to results/pretrain_cpu.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEQUENCES, LENGTH = 4, 512
TOKENS = SEQUENCES * LENGTH
ARMS = ("plain", "ours", "plain, memory kept")


def make_model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, max_position_embeddings=8192, rope_theta=1e5, tie_word_embeddings=True)
    return LlamaForCausalLM(config).train()


def tokens() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 49152, (SEQUENCES, LENGTH))


def plain_step() -> Callable[[], float]:
    import torch

    model, ids = make_model(), torch.from_numpy(tokens())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def our_step() -> Callable[[], float]:
    """A step as `biomistral.training.loop.Training` does it."""
    import numpy as np
    import torch

    from biomistral.memory import keep_freed_memory
    from biomistral.training.compute.attention import use_isolated_attention
    from biomistral.training.compute.fused import use_fused_norms
    from biomistral.training.data.batch import Block, collate
    from biomistral.training.parallel import Group
    from biomistral.training.weights.masters import MasterWeights

    keep_freed_memory()
    model, device = make_model(), torch.device("cpu")
    use_isolated_attention(model)
    use_fused_norms(model)
    weights = MasterWeights(model, None, torch.bfloat16, 0.01, Group(0, 1, device))
    blocks = [Block(row, np.append(row[1:], -100), (LENGTH,), ("a",)) for row in tokens()]

    def step() -> float:
        loss = weights.loss(collate(blocks, device), SEQUENCES * (LENGTH - 1))
        weights.backward(loss, last=True)
        weights.gradient_norm(1.0)
        weights.update(2e-5)
        return float(loss.item())

    return step


def part_of(name: str, shapes: list[Any]) -> str:
    """The part of a step that an operation belongs to, by its name and the shapes of its inputs."""
    sizes = [size for shape in shapes if isinstance(shape, list) for size in shape if isinstance(size, int)]
    operation = name.removeprefix("aten::").strip("_")
    if operation == "mm":
        return "head GEMMs" if 49152 in sizes else "linear layers' GEMMs"
    if operation in ("bmm", "softmax", "softmax_backward_data", "masked_fill") or "ShortAttention" in name:
        return "attention"
    if "RMSNorm" in name:
        return "RMSNorm"
    if "adamw" in operation:
        return "AdamW"
    if "embedding" in operation:
        return "embedding"
    if "silu" in operation or (1536 in sizes and operation in ("mul", "MulBackward0")):
        return "SwiGLU"
    if "CrossEntropy" in name or (49152 in sizes and 576 not in sizes):
        return "loss but for GEMMs"
    if 49152 in sizes or operation in ("linalg_vector_norm", "foreach_mul"):
        return "copies of weights and gradients, norm of the gradient"
    return "other pointwise: norms, rotary, residuals, copies"


def profile_by_part(step: Callable[[], float]) -> dict[str, float]:
    """Share of a step's CPU time by part, in percent."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        step()
    times: dict[str, float] = defaultdict(float)
    for row in profile.key_averages(group_by_input_shape=True):
        times[part_of(row.key, row.input_shapes)] += row.self_cpu_time_total
    total = sum(times.values())
    return {part: round(100 * seconds / total, 1) for part, seconds in sorted(times.items(), key=lambda item: -item[1])}


def work(arm: str) -> None:
    """A child: a step for each line that is read, and what it took as a line of JSON."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if arm == "plain, memory kept":
        from biomistral.memory import keep_freed_memory
        keep_freed_memory()
    step = our_step() if arm == "ours" else plain_step()
    for line in sys.stdin:
        if line.strip() == "profile":
            row: dict[str, Any] = profile_by_part(step)
        else:
            before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            loss = step()
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
            row = {"loss": loss, "wall": wall, "user": after.ru_utime - before.ru_utime,
                   "system": after.ru_stime - before.ru_stime, "peak_mb": after.ru_maxrss // 1024}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def ask(child: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
    assert child.stdin
    assert child.stdout
    child.stdin.write(line + "\n")
    child.stdin.flush()
    row: dict[str, Any] = json.loads(child.stdout.readline())
    return row


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of one arm, and every step's loss."""
    found: dict[str, Any] = {name: round(statistics.median(row[name] for row in rows), 3) for name in ("user", "system", "wall")}
    cpu = [row["user"] + row["system"] for row in rows]
    return found | {"cpu": round(statistics.median(cpu), 3), "cpu_each": [round(seconds, 2) for seconds in cpu],
                    "tokens_per_cpu_second": round(TOKENS / statistics.median(cpu)), "peak_mb": rows[-1]["peak_mb"],
                    "losses": [round(row["loss"], 4) for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arm")
    options = parser.parse_args()
    if options.arm:
        work(options.arm)
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    children = {arm: subprocess.Popen([sys.executable, __file__, "--arm", arm], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, env=environment) for arm in ARMS}
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds + 1):
        for arm, child in children.items():
            rows[arm].append(ask(child, "step"))
    arms = {arm: summary(found[1:]) for arm, found in rows.items()}
    ratios = {f"{measure}, {arm} / ours": round(arms[arm][measure] / arms["ours"][measure], 3)
              for arm in (ARMS[0], ARMS[2]) for measure in ("cpu", "user", "wall")}
    import torch
    import transformers

    result = {"machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": options.threads,
                          "torch": torch.__version__, "transformers": transformers.__version__},
              "tokens_per_step": TOKENS, "ratios": ratios, "arms": arms, "profile_percent": ask(children["ours"], "profile")}
    for child in children.values():
        assert child.stdin
        child.stdin.close()
        child.wait()
    path = Path(__file__).parent / "results" / "pretrain_cpu.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
