"""BioMistral's ten tasks translated whole by command with an engine of this machine, killed once on the way.

    python perf/translate_ten.py FILES [--engine apertium --to es] [--work FOLDER] [--limit N] [--kill-at TEXTS]

FILES holds the tasks' original files. The first try is killed (SIGKILL) once so many texts are in the memory; the second has to
go on with them. The third writes another folder out of the memory alone: what reading, checking and writing take.
Each is a process of its own; its children's CPU time counts. Written to results/translate_ten.json, beside other engines' runs.
"""

import argparse
import json
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from ten_tasks import attempt, machine

RESULTS = Path(__file__).parent / "results" / "translate_ten.json"


def remembered(cache: Path) -> int:
    place = cache / "translations.sqlite"
    if not place.is_file():
        return 0
    with closing(sqlite3.connect(place)) as base:
        there = base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'answers'").fetchone()[0]
        return int(base.execute("SELECT count(*) FROM answers").fetchone()[0]) if there else 0


def measure(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    build = ["benchmark", "build", "biomistral", "--files", arguments.files, "--out", str(work / "ten")]
    assert attempt(work, build)["exit"] == 0, f"see {work / 'log.txt'}"
    name, cache = f"{arguments.engine}-{arguments.to}", work / f"cache-{arguments.engine}"
    translate = ["benchmark", "translate", str(work / "ten"), "--to", arguments.to, "--engine", arguments.engine, "--limit",
                 str(arguments.limit), "--cache", str(cache)]
    tries = [attempt(work, [*translate, "--out", str(work / name)], lambda _: remembered(cache) >= arguments.kill_at)]
    kept = remembered(cache)
    if tries[0]["exit"] == -signal.SIGKILL:
        tries.append(attempt(work, [*translate, "--out", str(work / name)]))
    again = attempt(work, [*translate, "--out", str(work / f"{name}-again")])
    assert tries[-1]["exit"] == again["exit"] == 0, f"see {work / 'log.txt'}"
    facts = json.loads((work / name / "manifest.json").read_text())["facts"]["translation"]
    assert facts["pieces"]["remembered"] >= kept > 0, "what was translated before the kill was asked for again"
    of = sum(task["of"] for task in facts["passed"].values())
    return {"machine": machine(), "limit": arguments.limit, "tries": tries, "in_the_memory_after_the_kill": kept,
            "out_of_the_memory_alone": again, "questions_a_second_of_it": of / again["cpu_seconds"],
            "review_page_bytes": (work / name / "review.html").stat().st_size,
            **{part: facts[part] for part in ("from", "to", "engines", "back_translation", "rounds", "pieces", "passed",
                                              "reasons")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files")
    parser.add_argument("--engine", default="apertium")
    parser.add_argument("--to", default="es")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--kill-at", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
        kept[arguments.engine] = measure(work, arguments)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(json.dumps(kept[arguments.engine], indent=1))


if __name__ == "__main__":
    main()
