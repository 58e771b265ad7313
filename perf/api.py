"""The API engine beside the local one, on servers that others wrote, and what the client itself costs.

    python perf/api.py [--llama-python VENV/bin/python] [--serve-python VENV/bin/python]

The same questions (MedConceptsQA, ICD-10-CM, hard) by the quickstart's model, in float32 here, as an F32 and an F16 file in
llama.cpp's own server, and in `transformers serve`, which gives no log-probabilities. Then requests at the tests' server, in
another process, 16 to 4,000 of them in flight: it takes so long for each that it could answer 100 a second. Written to
results/api.json.

The environments: ``pip install xllamacpp``; ``pip install transformers torch fastapi uvicorn openai``.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.endpoint.account import Account
from biomistral.endpoint.client import Request
from biomistral.endpoint.crowd import ask_all
from biomistral.endpoint.place import Place
from biomistral.evaluation.api.replies import read_letters
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.settings import ModelSettings
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Input, Machine, Requests
from biomistral.records import read_rows
from biomistral.run import execute

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "api.json"
QUESTIONS = 16
PROTOCOLS = ["letters-0shot", "medconceptsqa-0shot", "chat-0shot", "generate-0shot"]
Rows = dict[tuple[str, str], dict[str, Any]]


@contextmanager
def serving(command: Sequence[str], url: str = "") -> Iterator[str]:
    """A server as long as it is needed; its address is what it prints first, unless it is known."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield (url and answers(url)) or process.stdout.readline().strip()
        finally:
            process.kill()


def answers(url: str) -> str:
    """Wait until a server answers at all."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return url
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{url} does not answer")


def ask(folder: Path, name: str, model: str, protocols: list[str], url: str = "") -> tuple[Rows, list[str]]:
    engine = {"engine": "api", "url": url} if url else {"dtype": "float32"}
    settings = EvaluateSettings(model=Input(model), benchmark=Input(folder / "questions"), protocols=protocols, limit=QUESTIONS,
                                **engine)
    made = execute(settings, folder / name, Machine(requests=Requests(concurrency=4)))
    rows = {(row["protocol"], row["question"]): row for row in read_rows(made.path / "answers.parquet")}
    return rows, json.loads((made.path / "results.json").read_text())["warnings"]


def compared(here: Rows, there: Rows) -> dict[str, Any]:
    """By protocol: how far probabilities lie apart at most, and the share of the same answers (and words)."""
    found: dict[str, Any] = {}
    for protocol in dict.fromkeys(name for name, _ in there):
        pairs = [(here[key], row) for key, row in there.items() if key[0] == protocol and key in here]
        apart = [abs(a - b) for mine, other in pairs if mine["probabilities"] and other["probabilities"]
                 for a, b in zip(mine["probabilities"], other["probabilities"], strict=True)]
        found[protocol] = {"questions": len(pairs), "same_answer": sum(a["chosen"] == b["chosen"] for a, b in pairs) / len(pairs),
                           **({"probabilities_apart_at_most": max(apart)} if apart else
                              {"same_words": sum(a["said"] == b["said"] for a, b in pairs) / len(pairs)})}
    return found


def crowds() -> dict[str, Any]:
    """CPU of this process a request, and requests a second, at servers that take so long that 100 a second would be served."""
    found = {}
    script = HERE.parent / "tests" / "completions_server.py"
    for concurrency in (16, 100, 1000, 4000):
        count = max(1000, 2 * concurrency)
        with serving([sys.executable, str(script), json.dumps({"delay": concurrency / 100})]) as port:
            body = {"model": "m", "max_tokens": 1, "logprobs": 5}
            requests = [Request(str(n), "completions", {**body, "prompt": f"{n} {'word ' * 100}"}, 100, 1, read_letters)
                        for n in range(count)]
            began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
            got: list[str] = []
            ask_all(Place(f"http://127.0.0.1:{port}/v1"), Requests(concurrency=concurrency), Account(), requests,
                    lambda request, _, got=got: got.append(request.key), lambda *_: None)
            assert len(got) == count
            seconds, cpu = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
            found[str(concurrency)] = {"requests": count, "requests_per_second": count / seconds,
                                       "cpu_ms_a_request": 1000 * cpu / count}
    return found


def save(name: str, found: dict[str, Any]) -> None:
    """Keep what was found beside what an earlier run found."""
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**kept, name: found}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(name, json.dumps(found, indent=1, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-python", help="a Python that has xllamacpp")
    parser.add_argument("--serve-python", help="a Python that has transformers, fastapi, uvicorn and openai")
    options = parser.parse_args()
    os.environ.update(no_proxy="127.0.0.1", HF_HUB_OFFLINE="1")
    save("crowds", crowds())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        execute(ModelSettings(source=Input("embedded:smollm2-135m-instruct")), folder / "model")
        execute(BenchmarkSettings(vocabularies={"ICD10CM": Input("embedded:icd10cm")}, levels=("hard",), limit=200,
                                  validation=10), folder / "questions")
        here, _ = ask(folder, "local", str(folder / "model"), [*PROTOCOLS, "medconceptsqa-generate-0shot"])
        for kind in ("F32", "F16") if options.llama_python else ():
            made = execute(QuantizeSettings(model=Input(folder / "model"), method=f"gguf:{kind}"), folder / kind).path
            command = [options.llama_python, str(HERE / "peers" / "llama_server.py"), str(made / f"model-{kind}.gguf")]
            with serving(command) as url:
                there, warnings = ask(folder, f"llama-{kind}", "m", PROTOCOLS, url)
            said = [one for one in warnings if "likeliest" in one]
            save(f"llama.cpp {kind}", {**compared(here, there), "warnings": said})
        if options.serve_python:
            command = [options.serve_python, "-m", "transformers.cli.transformers", "serve", str(folder / "model"), "--device",
                       "cpu", "--dtype", "float32", "--port", "8765", "--host", "127.0.0.1"]
            with serving(command, "http://127.0.0.1:8765") as url:
                there, warnings = ask(folder, "serve", str(folder / "model"), ["medconceptsqa-0shot", "generate-0shot"], url)
            said = [one for one in warnings if "instead" in one]
            save("transformers serve", {**compared(here, there), "warnings": said})


if __name__ == "__main__":
    main()
