"""BioMistral's ten tasks asked of the quickstart's model by command, zero-shot and three-shot, killed once on the way.

    python perf/ten_tasks.py FILES [--work FOLDER] [--limit N] [--kill-after SECONDS] [--again N]

FILES holds the tasks' original files. Tasks without shots there are refused by name, which is recorded; the others are asked
three-shot behind three sets. The first try of each command is killed (SIGKILL) after so many seconds; the second has to go on
with the answers that were on the disk. Each command is a process of its own in bfloat16: wall and CPU seconds and peak memory
are the operating system's account of it, start-up included. ``--work`` keeps everything: run again, what is done is not done
again, and the times of what was done before are kept. Written to results/ten_tasks.json.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomistral.records import read_rows

RESULTS = Path(__file__).parent / "results" / "ten_tasks.json"
MODEL = "embedded:smollm2-135m-instruct"
PROTOCOLS = ("letters-0shot", "letters-3shot")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "biomistral.cli", *arguments]


def attempt(work: Path, arguments: list[str], kill_when: Callable[[float], bool] = lambda seconds: False) -> dict[str, Any]:
    """Run a command, or kill it when that says so of the seconds since it began; what it took and how it ended."""
    began = time.perf_counter()
    with (work / "log.txt").open("ab") as log:
        child = subprocess.Popen(command(*arguments), stdout=log, stderr=log)
    while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
        time.sleep(0.2)
        if kill_when(time.perf_counter() - began):
            os.kill(child.pid, signal.SIGKILL)
    used = ended[2]
    return {"exit": os.waitstatus_to_exitcode(ended[1]), "wall_seconds": time.perf_counter() - began,
            "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def on_the_disk(work: Path, name: str) -> list[dict[str, Any]]:
    """The answers that a killed evaluation left."""
    found = []
    for place in work.glob(f".{name}.*.partial/parts"):
        lines = [line for path in place.glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
        found += [row for line in lines for row in json.loads(line)["rows"]]
        found += [row for path in place.glob("*.parquet") for row in read_rows(path)]
    return found


def same_answers(work: Path, name: str, kept: list[dict[str, Any]]) -> int:
    """How many of these stand in the records at last, seconds and all: they were not computed again."""
    fields = ("question", "shot_set", "seconds", "probabilities")
    there = {json.dumps([row[field] for field in fields]) for row in read_rows(work / name / "answers.parquet")}
    return sum(json.dumps([row[field] for field in fields]) in there for row in kept)


def records(folder: Path) -> dict[str, str]:
    """The records of an evaluation by question, shot set and language: everything that is not a time."""
    return {json.dumps([row["task"], row["question"], row["language"], row["shot_set"]]):
            json.dumps({name: value for name, value in row.items() if name != "seconds"})
            for row in read_rows(folder / "answers.parquet")}


def able(work: Path, protocol: str) -> tuple[list[str], str]:
    """The tasks that can be asked, as the command itself says it, and its words (none: all of them)."""
    trial = command("evaluate", "--model", str(work / "base"), "--suite", str(work / "ten"), "--protocols", protocol,
                    "--limit", "1", "--out", str(work / f"try-{protocol}"))
    found = subprocess.run(trial, capture_output=True, text=True, check=False)
    said = found.stderr.strip().splitlines()[-1] if found.returncode else ""
    return (said.rpartition("--tasks ")[2].split(",") if said else []), said


def asking(work: Path, protocol: str, limit: int, tasks: list[str], out: str) -> list[str]:
    return ["evaluate", "--model", str(work / "base"), "--suite", str(work / "ten"), "--protocols", protocol, "--dtype",
            "bfloat16", "--limit", str(limit), "--out", str(work / out), "--name", "SmolLM2-135M-Instruct",
            *(["--tasks", ",".join(tasks)] if tasks else [])]


def again(work: Path, protocol: str, limit: int, tasks: list[str]) -> dict[str, int]:
    """Ask a few twice more: how many records there are, and how many differ between the two, and from the whole run."""
    runs = []
    for number in range(2):
        out = f"{protocol}-again-{number}"
        assert attempt(work, asking(work, protocol, limit, tasks, out))["exit"] == 0, f"see {work / 'log.txt'}"
        runs.append(records(work / out))
    whole, (one, other) = records(work / protocol), runs
    return {"records": len(one), "differ_between_the_two": sum(one.get(name) != row for name, row in other.items()),
            "differ_from_the_whole_run": sum(whole.get(name) != row for name, row in one.items())}


def ask(work: Path, protocol: str, limit: int, kill_after: float, few: int) -> dict[str, Any]:
    """Ask by command until it is done, killed once, then a few again; its account is kept beside its results."""
    account = work / f"{protocol}.json"
    if account.is_file():
        return dict(json.loads(account.read_text()))
    tasks, refused = able(work, protocol)
    arguments = asking(work, protocol, limit, tasks, protocol)
    tries, kept = [attempt(work, arguments, lambda seconds: 0 < kill_after < seconds)], on_the_disk(work, protocol)
    if tries[0]["exit"] == -signal.SIGKILL:
        tries.append(attempt(work, arguments))
    assert tries[-1]["exit"] == 0, f"see {work / 'log.txt'}"
    found = {"refused": refused, "tries": tries, "answers_on_the_disk_after_the_kill": len(kept),
             "of_them_in_the_records": same_answers(work, protocol, kept), "again": again(work, protocol, few, tasks)}
    account.write_text(json.dumps(found))
    return found


def scores(work: Path, protocol: str) -> dict[str, Any]:
    results = json.loads((work / protocol / "results.json").read_text())
    found = results["protocols"][protocol]
    table = {task: {name: score[name] for name in ("n", "accuracy", "interval", "spread", "letter_mass")}
             for task, score in found["tasks"].items()}
    return {"tasks": table, "average": found["average"], "definition_hash": found["definition_hash"],
            "shot_sets": found["shot_sets"], "answering_seconds": found["seconds"],
            "answers_per_second": found["questions_per_second"], "limit": results["benchmark"]["limit"],
            "warnings": results["warnings"]}


def machine() -> dict[str, Any]:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "all"), "priority": os.nice(0),
            "load_average": os.getloadavg()}


def measure(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    inputs = {"base": ["model", "import", MODEL], "ten": ["benchmark", "build", "biomistral", "--files", arguments.files]}
    for out, rest in inputs.items():
        assert attempt(work, [*rest, "--out", str(work / out)])["exit"] == 0, f"see {work / 'log.txt'}"
    found: dict[str, Any] = {"model": MODEL, "machine": machine()}
    for protocol in PROTOCOLS:
        account = ask(work, protocol, arguments.limit, arguments.kill_after, arguments.again)
        found[protocol] = {**account, **scores(work, protocol)}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--kill-after", type=float, default=120.0)
    parser.add_argument("--again", type=int, default=20, help="questions a task that are asked twice more")
    arguments = parser.parse_args()
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(arguments.work, arguments), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments), indent=1))


if __name__ == "__main__":
    main()
