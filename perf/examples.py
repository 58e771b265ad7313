"""What it costs to read and tokenise fine-tuning examples: CPU seconds, memory that stays, and the questions beside them.

``examples.py [THOUSANDS]``: so many made-up multiple-choice prompts as JSONL, and a tenth as many as a benchmark's questions
with a context. Memory is what the process holds more afterwards.
"""

import json
import platform
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from biomistral.models.load import load_tokenizer
from biomistral.models.settings import ModelSettings
from biomistral.recipe import Input
from biomistral.records import LETTERS, Question, write_questions
from biomistral.run import execute
from biomistral.training.data.sources import Examples
from biomistral.training.data.supervised import SupervisedBlocks

RESULTS = Path(__file__).parent / "results" / "examples.json"
WORDS = ["patient", "presents", "with", "acute", "chronic", "pain", "fever", "diabetes", "mellitus", "renal", "failure",
         "hepatic", "therapy", "mg", "daily", "which", "following", "most", "likely", "diagnosis", "treatment", "of", "the", "is"]


def text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def write_prompts(path: Path, count: int) -> Path:
    generator = random.Random(0)
    with path.open("w") as stream:
        for number in range(count):
            options = " ".join(f"({letter}) {text(generator, 4)}" for letter in "ABCD")
            prompt = f"{text(generator, 30)} {options} **Answer:**("
            stream.write(json.dumps({"prompt": prompt, "completion": "A", "id": f"q{number}"}) + "\n")
    return path


def write_benchmark(path: Path, count: int) -> Path:
    generator = random.Random(1)
    write_questions(path, (Question(id=f"q{number}", task="pubmedqa", split="test" if number % 200 == 0 else "train",
                                    stem=text(generator, 15), options=("yes", "no", "maybe"), answer=LETTERS[number % 3],
                                    context=text(generator, 200)) for number in range(count)))
    return path


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(place: Path, model: Path) -> dict[str, Any]:
    """What one input costs, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(_measured, place, model).result()


def _measured(place: Path, model: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(model)
    before, started = resident_bytes(), time.process_time()
    blocks = SupervisedBlocks(Examples(place), tokenizer, 2048, root=0)
    seconds = time.process_time() - started
    megabytes = (resident_bytes() - before) / 1e6
    return {"examples": blocks.num_examples, "tokens": blocks.num_tokens, "cpu_seconds": round(seconds, 1),
            "tokens_per_cpu_second": round(blocks.num_tokens / seconds), "megabytes_more": round(megabytes)}


def main() -> None:
    thousands = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), folder / "model")
        found = {"questions": measured(write_benchmark(folder / "q.parquet", 100 * thousands), folder / "model"),
                 "prompts": measured(write_prompts(folder / "p.jsonl", 1000 * thousands), folder / "model"),
                 "machine": f"{platform.machine()}, Python {platform.python_version()}"}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
