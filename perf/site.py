"""A large site: made-up results of many models, tasks and languages, the report built from them, its size, and how soon a
browser can work with its leaderboard.

``site.py [--models 60 --tasks 25 --languages 8 --questions 1000] [--folder FOLDER]``: results folders have the real layout, one
answer a row; what was made once in FOLDER is used again. Time to interactive is the browser's own clock, from navigation until
the leaderboard's script has finished; chromium is driven by playwright.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.artifact import Workspace, input_key, produce
from biomistral.calibration import reliability_bins
from biomistral.files import write_json, write_text
from biomistral.recipe import Input, StageSettings, canonical_hash
from biomistral.records import ANSWER_SCHEMA
from biomistral.statistics import cluster_interval, holm, mcnemar, wilson

RESULTS = Path(__file__).parent / "results" / "site.json"
LANGUAGES = ("en", "ar", "de", "es", "fr", "pt", "ru", "zh", "it", "ja", "hi", "sw")
PROTOCOL = "letters-0shot"


class MadeUp(StageSettings):
    """Answers of a model of a certain skill; how hard a question is, is the same for all."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "__main__:write_results"
    model: Input
    benchmark: Input
    name: str
    skill: float
    tasks: int
    languages: int
    questions: int


@functools.lru_cache(maxsize=1)
def asked(tasks: int, languages: int, questions: int) -> dict[str, Any]:
    """The columns that all models share, by language, task and number of the question."""
    generator = np.random.default_rng(0)
    shape = (languages, tasks, questions)
    language, task, number = (part.ravel() for part in np.indices(shape))
    names = [f"task {one:02}" for one in range(tasks)]
    ids = np.char.add(np.char.add(np.array(names)[task], "-"), number.astype(str))
    hard = generator.normal(size=shape[1:])[None] + 0.3 * np.arange(languages)[:, None, None] / languages
    return {"shape": shape, "task": task, "language": language, "difficulty": hard.ravel(), "names": names,
            "answer": np.broadcast_to(generator.integers(0, 4, shape[1:]), shape).ravel(),
            "columns": {"task": pa.array(np.array(names)[task]), "language": pa.array(np.array(LANGUAGES)[language]),
                        "question": pa.array(ids), "cluster": pa.array(ids)}}


def write_results(work: Workspace) -> None:
    settings: MadeUp = work.settings
    common = asked(settings.tasks, settings.languages, settings.questions)
    generator = np.random.default_rng(int(canonical_hash(settings.name)[:8], 16))
    count = len(common["answer"])
    right = settings.skill - common["difficulty"] + 0.8 * generator.normal(size=count) > 0
    chosen = np.where(right, common["answer"], (common["answer"] + generator.integers(1, 4, count)) % 4)
    best = 0.3 + 0.7 * generator.random(count)
    probabilities = np.repeat(((1 - best) / 3)[:, None], 4, axis=1)
    probabilities[np.arange(count), chosen] = best
    letters = np.array(list("ABCD"))
    columns = {**common["columns"], "model": pa.repeat(settings.name, count), "protocol": pa.repeat(PROTOCOL, count),
               "shot_set": pa.repeat(0, count).cast(pa.int32()), "group": pa.repeat("", count),
               "options": pa.repeat(4, count).cast(pa.int32()), "answer": pa.array(letters[common["answer"]]),
               "chosen": pa.array(letters[chosen]), "right": pa.array(right), "open_chosen": pa.array(letters[chosen]),
               "open_right": pa.array(right), "letter_mass": pa.repeat(0.9, count), "prompt_hash": common["columns"]["question"],
               "prompt_tokens": pa.repeat(90, count).cast(pa.int32()), "seconds": pa.repeat(0.01, count),
               "shots": pa.repeat(0, count).cast(pa.int32()), "permutation": pa.repeat(0, count).cast(pa.int32()),
               "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), 4).cast(
                   pa.list_(pa.float64()))}
    table = pa.table({field.name: columns.get(field.name, pa.nulls(count, field.type)) for field in ANSWER_SCHEMA},
                     schema=ANSWER_SCHEMA)
    pq.write_table(table, work.path / "answers.parquet", compression="zstd", row_group_size=4096)
    write_json(work.path / "results.json", {
        "model": {"name": settings.name, "key": input_key(work.locate(settings.model)), "parameters": 7_000_000_000,
                  "dtype": "bfloat16", "quantization": "awq" if settings.name.endswith("awq") else None},
        "benchmark": {"name": "made up", "key": input_key(work.locate(settings.benchmark)), "split": "test", "limit": None},
        "protocols": {PROTOCOL: summary(common, right.reshape(common["shape"]), best)}})


def summary(common: dict[str, Any], right: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """What `evaluate` would write; gaps have normal intervals, since nothing here looks at them."""
    names, definition = common["names"], {"prompt": "Question: {stem}\nAnswer:", "extraction": "likeliest option"}
    languages = {language: of_language(names, right[place], right[0] if place else None)
                 for place, language in enumerate(LANGUAGES[:len(right)])}
    for task in [None, *names]:
        gaps = [one["gap"]["tasks"][task] if task else one["gap"]["overall"] for one in languages.values() if one["gap"]]
        for gap, p in zip(gaps, holm([gap["p"] for gap in gaps]), strict=True):
            gap["p_holm"] = p
    tasks = {name: score(right[:, place].T) for place, name in enumerate(names)}
    return {"definition": definition, "definition_hash": canonical_hash(definition), "tasks": tasks, "groups": {},
            "languages": languages, "overall": score(right.reshape(len(right), -1).T),
            "average": float(np.mean([one["accuracy"] for one in tasks.values()])), "degenerate": None,
            "calibration": {"ece": 12.3, "adaptive_ece": 11.0, "brier": 0.6, "paper_ece_5": None,
                            "bins": reliability_bins(best.tolist(), right.ravel().tolist())},
            "permutations": None, "seconds": 9.0, "questions_per_second": 99.0}


def of_language(names: list[str], right: np.ndarray, english: np.ndarray | None) -> dict[str, Any]:
    tasks = {name: score(right[place][:, None]) for place, name in enumerate(names)}
    gap = None if english is None else {
        "overall": gap_of(right.ravel(), english.ravel()),
        "tasks": {name: gap_of(right[place], english[place]) for place, name in enumerate(names)}}
    return {"tasks": tasks, "overall": score(right.reshape(-1, 1)), "average": float(right.mean(1).mean()),
            "calibration": {"ece": 12.3, "adaptive_ece": 11.0, "brier": 0.6, "paper_ece_5": None}, "gap": gap}


def score(right: np.ndarray) -> dict[str, Any]:
    """Rows of ``right`` are clusters."""
    total, n = int(right.sum()), right.size
    interval = wilson(total, n) if right.shape[1] == 1 else cluster_interval(right)
    return {"n": n, "right": float(total), "accuracy": total / n, "interval": list(interval), "spread": 0.0,
            "letter_mass": 0.9, "open_accuracy": total / n}


def gap_of(own: np.ndarray, english: np.ndarray) -> dict[str, Any]:
    gained, lost = int((own & ~english).sum()), int((english & ~own).sum())
    difference, half = (gained - lost) / own.size, 1.96 * (gained + lost) ** 0.5 / own.size
    return {"n": own.size, "without_twin": 0, "accuracy": float(own.mean()), "english": float(english.mean()),
            "difference": difference, "low": difference - half, "high": difference + half, "gained": gained, "lost": lost,
            "p": mcnemar(gained, lost), "p_holm": None}


def make_results(folder: Path, options: argparse.Namespace) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "questions.jsonl", "made up")
    made = []
    for number in range(options.models):
        name = f"model {number:02}" + (" awq" if number % 5 == 4 else "")
        model = folder / f"{number:02}.txt"
        write_text(model, name)
        settings = MadeUp(model=str(model), benchmark=str(folder / "questions.jsonl"), name=name, skill=-1 + 2.5 * number / 60,
                          tasks=options.tasks, languages=options.languages, questions=options.questions)
        places = {str(model): model, str(folder / "questions.jsonl"): folder / "questions.jsonl"}
        made.append(produce(settings, folder / "results" / f"{number:02}", places).path)
    return made


def built(results: list[Path], out: Path) -> dict[str, Any]:
    """The report's command in a process of its own: seconds, CPU seconds, peak memory."""
    command = [sys.executable, "-m", "biomistral.cli", "report", *map(str, results), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mb": round(usage.ru_maxrss / 1024)}


def sizes(site: Path) -> dict[str, float]:
    """Megabytes by folder; ``records`` are the answers that the question explorer loads."""
    found: dict[str, float] = {}
    for file in site.rglob("*"):
        if file.is_file():
            part = file.relative_to(site).parts
            name = part[0] if len(part) > 1 else file.name
            found[name] = found.get(name, 0.0) + file.stat().st_size / 1e6
    return {name: round(size, 3) for name, size in sorted(found.items(), key=lambda pair: -pair[1])}


def without_records(site: Path) -> float:
    return round(sum(size for name, size in sizes(site).items() if name != "data"), 2)


def interactive(page: Path, times: int = 5) -> dict[str, Any] | str:
    """Milliseconds from navigation until the leaderboard's script is done, and of one click on a column, as medians."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed"
    ready, sorted_ = [], []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for _ in range(times):
            tab = browser.new_page()
            tab.goto(page.absolute().as_uri())
            ready.append(tab.evaluate("performance.getEntriesByName('interactive')[0].startTime"))
            sorted_.append(tab.evaluate("""() => { const started = performance.now();
                document.querySelectorAll('.board-section.on .slice.on thead button')[2].click();
                document.body.offsetHeight; return performance.now() - started; }"""))
            tab.close()
        version = browser.version
        browser.close()
    return {"ready_ms": round(float(np.median(ready))), "sort_ms": round(float(np.median(sorted_))), "chromium": version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("models", 60), ("tasks", 25), ("languages", 8), ("questions", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = make_results(options.folder or Path(scratch), options)
        site = Path(scratch) / "site"
        found = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "models": options.models,
                 "task_languages": options.tasks * options.languages, "questions_each": options.questions,
                 "build": built(results, site), "megabytes": sizes(site), "megabytes_without_records": without_records(site),
                 "leaderboard": interactive(site / "index.html")}
    print(json.dumps(found, indent=1))
    if (options.models, options.tasks * options.languages, options.questions) == (60, 200, 1000):
        write_json(RESULTS, found)


if __name__ == "__main__":
    main()
