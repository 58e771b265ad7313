"""Translating with 1,000 requests in flight: how full the server is kept, and that a tenth of all requests failing loses nothing.

    python perf/translate.py [--questions 6000]

The tests' server in another process takes ten seconds for each request, so that it answers 100 a second when 1,000 are in flight
all the time. Its log says when each request came and went. Reported of it: the share of the 1,000 places that were taken in the
steady state (from the first to the last moment when all were), how long it took to fill and, behind the steady state, to empty
it, by how much it was late itself; of the command: seconds in all, seconds after the last answer (checks, writing), CPU
milliseconds a request here, what was lost, what was answered twice. Written to results/translate_api.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from biomistral.recipe import Input, Machine, Requests
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from biomistral.translation.settings import TranslateSettings

HERE = Path(__file__).parent
SERVER = HERE.parent / "tests" / "translation_server.py"
RESULTS = HERE / "results" / "translate_api.json"
IN_FLIGHT = 1000
DELAY = 10.0
STEM = "Which structure passes through opening {} of the skull?"
OPTIONS = ("the facial nerve", "the vagus nerve", "the optic nerve", "the hypoglossal nerve")


@contextmanager
def serving(**state: Any) -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(SERVER), json.dumps(state)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def run(folder: Path, questions: Path, url: str, name: str) -> tuple[dict[str, Any], float, float]:
    """The manifest's facts, seconds of wall clock and of CPU."""
    settings = TranslateSettings(engine="api", model=Input("words"), url=url, benchmark=Input(str(questions)), to="pt",
                                 back_translation=False)
    wall, cpu = time.perf_counter(), time.process_time()
    machine = Machine(cache=str(folder / f"cache-{name}"), requests=Requests(concurrency=IN_FLIGHT))
    made = execute(settings, folder / name, machine)
    return made.manifest["facts"]["translation"], time.perf_counter() - wall, time.process_time() - cpu


def in_flight(log: dict[str, Any]) -> list[tuple[float, int]]:
    """From each moment on, how many requests the server has."""
    changes = sorted([(moment, 1) for moment in log["times"]] + [(moment, -1) for moment in log["ends"]])
    return list(zip([moment for moment, _ in changes], accumulate(change for _, change in changes), strict=True))


def filled(log: dict[str, Any]) -> dict[str, float]:
    """How full the server was, and for how long."""
    levels = in_flight(log)
    full = [moment for moment, count in levels if count >= IN_FLIGHT]
    steady = [(moment, count) for moment, count in levels if full[0] <= moment <= full[-1]]
    area = sum(count * (after - moment) for (moment, count), (after, _) in pairwise(steady))
    late = (sum(log["ends"]) - sum(log["times"])) / len(log["times"]) - DELAY
    return {"steady_seconds": round(full[-1] - full[0], 1),
            "steady_share_of_places_taken": round(area / (full[-1] - full[0]) / IN_FLIGHT, 4),
            "seconds_to_fill": round(full[0] - levels[0][0], 1), "seconds_to_empty": round(levels[-1][0] - full[-1], 1),
            "server_late_seconds_a_request": round(late, 3)}


def measured(folder: Path, questions: Path, count: int, name: str, **state: Any) -> dict[str, Any]:
    with serving(delay=DELAY, **state) as url:
        _, wall, cpu = run(folder, questions, url, name)
        ended = time.time()
        with urllib.request.urlopen(f"{url}/log", timeout=60) as answer:
            log = json.load(answer)
    tries = len(log["times"])
    there = sum(1 for _ in read_rows(folder / name / "questions.parquet"))
    full = tries * DELAY / IN_FLIGHT
    return {"questions": count, "requests_sent": tries, "most_in_flight": log["most"], **filled(log), "seconds": round(wall, 1),
            "seconds_if_always_full": round(full, 1), "share_of_full": round(full / wall, 3),
            "seconds_after_the_last_answer": round(ended - max(log["ends"]), 1), "cpu_ms_a_request": round(1000 * cpu / tries, 2),
            "lost": count - there, "answered_twice": sum(times > 1 for times in Counter(log["answered"]).values())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=6000)
    count = parser.parse_args().questions
    os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = folder / "questions.parquet"
        write_questions(questions, (Question(id=f"q{number}", task="t", stem=STEM.format(number), options=OPTIONS, answer="A")
                                    for number in range(count)))
        found = {"server": f"{DELAY:g} s a request, {IN_FLIGHT} in flight", "sound": measured(folder, questions, count, "sound"),
                 "a tenth failing": measured(folder, questions, count, "failing", struck_share=0.1, faults=["500"])}
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
