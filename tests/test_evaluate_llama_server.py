"""The API engine on llama.cpp's own server (where xllamacpp is installed): the local engine's answers, on a pico model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.quantization.settings import QuantizeSettings
from biomistral.records import Question, read_rows, write_questions
from biomistral.run import execute
from tiny import make_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
SCRIPT = Path(__file__).parent.parent / "perf" / "peers" / "llama_server.py"
PROTOCOLS = ["letters-0shot", "letters-3shot", "chat-0shot", "medconceptsqa-0shot", "generate-0shot"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder / "pico", vocab_size=500)
    write_questions(folder / "q.parquet", [
        Question(id=f"q{number}", task="t", split="dev" if number < 4 else "test", stem=f"What is {'heart ' * number}é {number}?",
                 options=("fever", "cough", "pain"), answer="ABC"[number % 3]) for number in range(12)])
    return folder


@pytest.fixture
def url(place, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = execute(QuantizeSettings(model=str(place / "pico"), method="gguf:F32"), place / "gguf").path / "model-F32.gguf"
    command = [sys.executable, str(SCRIPT), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def test_the_same_answers_as_here(place, url, tmp_path):
    here = EvaluateSettings(model=str(place / "pico"), benchmark=str(place / "q.parquet"), protocols=PROTOCOLS, dtype="float32")
    there = EvaluateSettings(engine="api", url=url, model="pico", benchmark=str(place / "q.parquet"), protocols=PROTOCOLS,
                             top_logprobs=500)
    execute(here, tmp_path / "here")
    execute(there, tmp_path / "there")
    mine, others = (list(read_rows(tmp_path / name / "answers.parquet")) for name in ("here", "there"))
    assert len(mine) == len(others) == 8 * 7
    for row, other in zip(mine, others, strict=True):
        assert (row["protocol"], row["question"], row["shot_set"]) == (other["protocol"], other["question"], other["shot_set"])
        assert row["prompt_tokens"] == other["prompt_tokens"]  # BOS as here, and once
        if row["probabilities"] is None:
            assert row["said"] == other["said"]
            continue
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=2e-3)
        assert row["letter_mass"] == pytest.approx(other["letter_mass"], rel=1e-2)
    warnings = json.loads((tmp_path / "there" / "results.json").read_text())["warnings"]
    assert not [one for one in warnings if "likeliest" in one]


def test_what_it_cannot_do_is_said(place, url, tmp_path):
    asked = {"engine": "api", "url": url, "model": "pico", "benchmark": str(place / "q.parquet")}
    with pytest.raises(UserError, match=r"gives no log-probabilities of a prompt \(echo\), which cloze-sum needs"):
        execute(EvaluateSettings(**asked, protocols=["cloze-sum"]), tmp_path / "no")
    write_questions(tmp_path / "long.parquet", [
        Question(id="long", task="t", stem="heart " * 900, options=("a", "b"), answer="A"),
        Question(id="short", task="t", stem="heart", options=("a", "b"), answer="A")])
    long = {**asked, "benchmark": str(tmp_path / "long.parquet"), "protocols": ["letters-0shot"], "top_logprobs": 500}
    with pytest.raises(UserError, match=r"^question 'long': .* refuses it under letters-0shot: .*context size"):
        execute(EvaluateSettings(**long), tmp_path / "no")
    execute(EvaluateSettings(**long, too_long="drop"), tmp_path / "dropped")
    assert json.loads((tmp_path / "dropped" / "results.json").read_text())["left_out"] == [["letters-0shot", 0, "long", "en"]]
