"""lm-eval in its own environment: answer one task's questions, note seconds, memory and every letter's probability.

    python perf/peers/lm_eval_harness.py MODEL TASK_FOLDER TASK[,TASK] BATCH_SIZE[,BATCH_SIZE] OUT.json [LIMIT] [DEVICE]

Of several batch sizes the fastest is noted; several tasks are noted by name.

Loading and a first answer stay outside of the seconds; tokenising is inside, as it is for this project's own side.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def probabilities(sample):
    scores = [float(response[0][0]) for response in sample["resps"]]
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def peak_bytes(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main():
    model, folder, task, batch_sizes, out = sys.argv[1:6]
    limit = int(sys.argv[6]) if len(sys.argv) > 6 else None
    device = sys.argv[7] if len(sys.argv) > 7 else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    manager = TaskManager(include_path=folder, include_defaults=False)
    lm = HFLM(pretrained=model, dtype="bfloat16", batch_size=1, device=device)

    def ask(task, limit):
        return simple_evaluate(model=lm, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=True)

    def run(task, batch_size):
        lm.batch_size_per_gpu = batch_size
        ask(task, min(limit, batch_size) if device == "cuda" else 1)
        began = time.perf_counter()
        found = ask(task, limit)["samples"][task]
        seconds = time.perf_counter() - began
        answers = {sample["doc"]["id"]: probabilities(sample) for sample in found}
        return {"seconds": seconds, "questions": len(answers), "peak_bytes": peak_bytes(device), "batch_size": batch_size,
                "answers": answers}

    def best(task):
        runs = [run(task, int(size)) for size in batch_sizes.split(",")]
        for one in runs:
            print(task, one["batch_size"], one["seconds"], flush=True)
        return min(runs, key=lambda one: one["seconds"])

    tasks = task.split(",")
    found = {task: best(task) for task in tasks}
    Path(out).write_text(json.dumps(found if len(tasks) > 1 else found[task]))


if __name__ == "__main__":
    main()
