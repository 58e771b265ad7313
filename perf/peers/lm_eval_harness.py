"""lm-eval on a CPU, in its own environment: answer one task's questions, note seconds, memory and every letter's probability.

    python perf/peers/lm_eval_harness.py MODEL TASK_FOLDER TASK BATCH_SIZE OUT.json [LIMIT]

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


def main():
    model, folder, task, batch_size, out = sys.argv[1:6]
    limit = int(sys.argv[6]) if len(sys.argv) > 6 else None
    torch.set_num_threads(1)
    manager = TaskManager(include_path=folder, include_defaults=False)
    lm = HFLM(pretrained=model, dtype="bfloat16", batch_size=int(batch_size), device="cpu")

    def ask(limit):
        return simple_evaluate(model=lm, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=True)

    ask(1)
    began = time.perf_counter()
    found = ask(limit)["samples"][task]
    seconds = time.perf_counter() - began
    answers = {sample["doc"]["id"]: probabilities(sample) for sample in found}
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024
    Path(out).write_text(json.dumps({"seconds": seconds, "questions": len(answers), "peak_bytes": peak, "answers": answers}))


if __name__ == "__main__":
    main()
