"""Kill a training at random moments, twenty times, and compare what it ends in with a run that was never stopped.

    python perf/kill_training.py                    # about two minutes on one core
    python perf/kill_training.py --asynchronous     # checkpoints written while training goes on

Each of the twenty trainings is killed (SIGKILL) once or more, after a random share of the time that the straight run took,
then left to finish. A checkpoint is written after every step, so that many kills fall into the writing of one.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import biomistral.training.pretrain  # noqa: F401  (so that children need not import it)
from biomistral.artifact import open_artifact
from biomistral.run import execute
from biomistral.training.settings import PretrainSettings
from tiny import make_model
from training_inputs import make_corpus


def start(settings: PretrainSettings, out: Path) -> int:
    child = os.fork()
    if child == 0:
        execute(settings, out)
        os._exit(0)
    return child


def finish(child: int) -> None:
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status


def kill(child: int, after: float) -> bool:
    """Kill it after so many seconds; whether it was still at work."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def in_checkpoint(out: Path) -> bool:
    """Whether a checkpoint is half-written."""
    return bool(list(out.parent.glob(f".{out.name}.*.partial/checkpoints/.step-*")))


def digest(out: Path) -> str:
    found: str = open_artifact(out).manifest["files"]["model.safetensors"]["blake3"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true", help="asynchronous_checkpoints")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        model = make_model(here / "model", layers=2, hidden=256)
        settings = PretrainSettings(model=str(model), corpus=str(make_corpus(here / "corpus", model)), learning_rate=5e-3,
                                    max_steps=12, batch_sequences=2, checkpoint_steps=1,
                                    asynchronous_checkpoints=arguments.asynchronous)
        began = time.perf_counter()
        finish(start(settings, here / "straight"))
        took, expected = time.perf_counter() - began, digest(here / "straight")
        report = dict.fromkeys(("runs", "equal", "kills", "in_checkpoint", "finished_unkilled"), 0)
        for number in itertools.count():
            if report["runs"] == arguments.runs:
                break
            out, kills = here / f"run-{number}", 0
            for _ in range(arguments.kills):
                if kill(start(settings, out), draw.uniform(0, took)):
                    kills += 1
                    report["in_checkpoint"] += in_checkpoint(out)
            finish(start(settings, out))
            if not kills:  # it was done before the first: that proves nothing
                report["finished_unkilled"] += 1
                continue
            report["runs"] += 1
            report["kills"] += kills
            report["equal"] += digest(out) == expected
        print(json.dumps(report, indent=1))
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(report["equal"] != arguments.runs)


if __name__ == "__main__":
    main()
