"""The scripts for a GPU work where there is none: small, on the CPU, with nothing written."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "perf" / "gpu" / "pretrain.py"


@pytest.fixture(scope="module")
def pretrain() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_pretrain", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tiny_run_goes_through_every_method() -> None:
    methods = ["full", "lora"] + (["qlora"] if importlib.util.find_spec("bitsandbytes") else [])
    results = ROOT / "perf" / "results" / "gpu_pretrain.json"
    before = results.read_bytes() if results.is_file() else None
    done = subprocess.run([sys.executable, str(SCRIPT), "--tiny", "--methods", ",".join(methods), "--set", "max_steps=4"],
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["method"] for row in found] == methods
    for row in found:
        assert row["tokens_per_second"] > 0
        assert 0 < row["share_of_peak"] < 1
        assert len(row["losses"]) == 2
        assert all(5 < loss < 8 for loss in row["losses"])  # random weights: near ln 512
    assert found[1]["trainable_parameters"] < found[0]["trainable_parameters"]
    assert (results.read_bytes() if results.is_file() else None) == before


def test_operations_are_counted_from_the_model_s_own_matrices(pretrain: Any) -> None:
    """Against every matrix of the real shape, made without storage; the embedding is a look-up and costs nothing."""
    with torch.device("meta"):
        model = MistralForCausalLM(MistralConfig(**pretrain.MISTRAL_7B))
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    assert sum(p.numel() for p in model.parameters()) == 7_241_732_096  # what the published model has
    attention = 6 * 32 * 4096 * 2048
    assert pretrain.flop_per_token(pretrain.MISTRAL_7B, "full", 2048) == 6 * matrices + attention
    assert pretrain.flop_per_token(pretrain.MISTRAL_7B, "lora", 2048) == 4 * matrices + attention
    # the promise of 10,600 tokens/s counts as PaLM's appendix B does: the embedding too, and attention as if not causal
    assert 10_600 * (6 * 7_241_732_096 + 2 * attention) == pytest.approx(0.5 * 989e12, rel=0.01)


def test_the_readme_s_commands_name_scripts_that_are_there() -> None:
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    named = [word.strip("`") for word in text.split() if word.strip("`").startswith(("perf/", "recipes/")) and "." in word]
    assert named
    assert [name for name in named if not name.startswith("perf/results") and not (ROOT / name).is_file()] == []


def test_light_models_are_made_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    quantized = importlib.import_module("quantized")
    (tmp_path / "text.txt").write_text(quantized.TEXT * 20)
    quantized.make_base(tmp_path / "bf16", quantized.TINY, "cpu")
    quantized.make_form(tmp_path / "bf16", "rtn", tmp_path / "text.txt", tmp_path / "awq", "cpu")
    for form in ("bf16", "awq"):
        found = quantized.ask(tmp_path / form, "cpu", 3)
        assert sorted(found) == ["0-shot, seconds a question", "3-shot, seconds a question"]
        assert min(found.values()) > 0


def test_questions_are_answered_beside_a_float32_pass(tmp_path: Path) -> None:
    """Our side alone: lm-eval has an environment of its own."""
    script = SCRIPT.parent / "questions.py"
    code = ("import sys; from pathlib import Path; sys.argv[0] = sys.argv[1]; sys.path.insert(0, str(Path(sys.argv[1]).parent)); "
            "import questions as q; folder = Path(sys.argv[2]); q.make_questions(folder, 4); "
            "q.make_base(folder / 'model', q.TINY, 'cpu'); q.make_tokenizer(folder / 'model', folder / 'questions'); "
            "q.ours(folder, 'cpu', 4, folder / 'out.json')")
    done = subprocess.run([sys.executable, "-c", code, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    for protocol in ("letters-0shot", "letters-3shot"):
        assert found[protocol]["questions"] == 4
        for name, exact in found["exact"][protocol]["summed"].items():
            assert found[protocol]["answers"][name] == pytest.approx(exact, abs=0.02)
    assert found["letters-3shot"]["tokens"] > 2 * found["letters-0shot"]["tokens"]
