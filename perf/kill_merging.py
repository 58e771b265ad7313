"""Kill a merge at random moments, twenty times, and compare what it ends in with one that was never stopped.

    python perf/kill_merging.py             # three checkpoints of 126 M parameters; about two minutes on a core

Each of the twenty merges is killed (SIGKILL) up to three times, after a random share of the time that the straight one took,
then left to finish. Weights, report and model card have to be the same bytes.
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

from merge import FILES, make_checkpoint, shape_for

import biomistral.merging.merge  # noqa: F401  (so that children need not import it)
from biomistral.artifact import open_artifact
from biomistral.merging.settings import MergeSettings
from biomistral.recipe import Machine
from biomistral.run import execute


def start(settings: MergeSettings, out: Path, workers: int) -> int:
    child = os.fork()
    if child == 0:
        execute(settings, out, Machine(workers=workers))
        os._exit(0)
    return child


def finish(child: int) -> None:
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status


def seconds(settings: MergeSettings, out: Path, workers: int) -> float:
    """How long a merge takes that nobody stops."""
    began = time.perf_counter()
    finish(start(settings, out, workers))
    return time.perf_counter() - began


def kill(child: int, after: float) -> bool:
    """Kill it after so many seconds; whether it was still at work."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def tensors_done(out: Path) -> int:
    """Tensors that a killed merge had finished."""
    return sum(max(0, path.read_text().count("\n") - 1) for path in out.parent.glob(f".{out.name}.*.partial/.journal.jsonl"))


def digests(out: Path) -> dict[str, str]:
    return {name: entry["blake3"] for name, entry in open_artifact(out).manifest["files"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--method", choices=list(FILES), default="dare_ties")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kill_merging.json")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for number, name in enumerate("ABC"):
            make_checkpoint(here / name, shape_for(1e8), number)
        config = here / "merge.yaml"
        config.write_text(FILES[arguments.method])
        settings = MergeSettings(config=str(config), models={name: str(here / name) for name in "ABC"}, max_shard_bytes=10**8)
        took = min(seconds(settings, here / f"straight-{number}", arguments.workers) for number in range(3))
        expected = digests(here / "straight-0")
        report = {"method": arguments.method, "workers": arguments.workers, "files": len(expected), "runs": 0, "equal": 0,
                  "kills": 0, "kills_with_tensors_done": 0, "finished_unkilled": 0}
        for number in itertools.count():
            if report["runs"] == arguments.runs:
                break
            out, kills = here / f"run-{number}", 0
            for _ in range(arguments.kills):
                if kill(start(settings, out, arguments.workers), draw.uniform(0, took)):
                    kills += 1
                    report["kills_with_tensors_done"] += tensors_done(out) > 0
            finish(start(settings, out, arguments.workers))
            if not kills:  # it was done before the first: that proves nothing
                report["finished_unkilled"] += 1
                continue
            report["runs"] += 1
            report["kills"] += kills
            report["equal"] += digests(out) == expected
        print(json.dumps(report, indent=1))
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(report["equal"] != arguments.runs)


if __name__ == "__main__":
    main()
