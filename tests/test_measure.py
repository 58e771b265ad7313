"""What every quantised form is measured by: text, layers, questions, memory and speed, against plain computations."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config

from biomistral import cli
from biomistral.artifact import Artifact
from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.quantization.calibrated.samples import draw
from biomistral.quantization.measure import measure, probe
from biomistral.quantization.measure.answers import compare_answers
from biomistral.quantization.measure.hidden import Readout, decoder_layers, final_hidden, open_streamed
from biomistral.quantization.measure.speed import measured
from biomistral.quantization.measure.text import compare_text
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Machine
from biomistral.run import execute
from tiny import TEXT, make_model, make_tokenizer
from tiny_questions import make_questions

pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
CHOSEN: dict[str, Any] = {"method": "fp4", "sequence_length": 32, "evaluation_samples": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, text and questions."""
    folder = tmp_path_factory.mktemp("measure")
    make_model(folder / "model", dtype="float16")
    (folder / "text.txt").write_text(" ".join(f"{number}. {TEXT}" for number in range(20)), encoding="utf-8")
    make_questions(folder / "questions.parquet")
    return folder


def run(place: Path, out: Path, machine: Machine | None = None, **chosen: Any) -> Artifact:
    return execute(QuantizeSettings(model=str(place / "model"), **{**CHOSEN, **chosen}), out, machine)


def test_text_is_measured_as_plain_forward_passes_measure_it(place: Path, tmp_path: Path) -> None:
    made = run(place, tmp_path / "made", calibration=str(place / "text.txt"))
    report = json.loads((made.path / "quantization.json").read_text())
    sequences = draw(place / "text.txt", place / "model", 400, 32, 3, 0)
    outputs = []
    for folder in (place / "model", made.path):
        with torch.inference_mode():
            outputs.append(load_model(folder, torch.float32)(sequences, output_hidden_states=True))
    exact, rounded = (torch.log_softmax(output.logits[:, :-1].double(), -1) for output in outputs)
    for name, log_p in (("reference", exact), ("quantized", rounded)):
        loss = -log_p.gather(2, sequences[:, 1:, None]).mean()
        assert report["perplexity"][name] == pytest.approx(math.exp(loss), rel=1e-5)
    divergence = (exact.exp() * (exact - rounded)).sum(-1).flatten().numpy()
    assert report["tokens"] == divergence.size == 3 * 31
    assert report["kl_divergence"]["mean"] == pytest.approx(divergence.mean(), rel=1e-3)
    assert report["kl_divergence"]["p99"] == pytest.approx(np.quantile(divergence, 0.99), rel=1e-3)
    assert report["argmax_flips"] == pytest.approx(float((exact.argmax(-1) != rounded.argmax(-1)).double().mean()), abs=0.02)
    # the first layer's output is hidden_states[1]; the last one of transformers has the final norm behind it
    before, after = (output.hidden_states[1].double() for output in outputs)
    error = float((after - before).square().sum() / before.square().sum())
    assert report["layers"][0]["hidden_error"] == pytest.approx(error, rel=1e-3)
    assert len(report["layers"]) == 2
    assert made.manifest["facts"]["kl_divergence"] == report["kl_divergence"]
    again = run(place, tmp_path / "again", calibration=str(place / "text.txt"))
    assert again.manifest["content"] == made.manifest["content"]


def family(folder: Path, kind: str) -> Path:
    """A pico model with something after its head (gemma2), or with another body (gpt2)."""
    make_tokenizer(folder)
    if kind == "llama":
        return make_model(folder)
    config: Any = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=400, n_positions=64)
    if kind == "gemma2":
        config = Gemma2Config(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                              num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.05, sliding_window=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_model_read_layer_by_layer_computes_what_it_does_loaded(tmp_path: Path, kind: str) -> None:
    folder = family(tmp_path / kind, kind)
    ids = torch.arange(3, 51).reshape(3, 16)
    streamed, loaded = open_streamed(folder, torch.float32, CPU), load_model(folder, torch.float32)
    with torch.inference_mode():
        expected = loaded(ids, output_hidden_states=True)
    seen: dict[int, torch.Tensor] = {}
    finals = [final_hidden(streamed, tokens, seen.__setitem__) for tokens in ids]
    assert all(parameter.is_meta for parameter in decoder_layers(streamed).parameters())
    assert len(seen) == 2
    assert torch.allclose(seen[0][0], expected.hidden_states[1][2], atol=1e-5)
    readout = Readout(streamed)
    assert torch.allclose(readout(finals[1]), expected.logits[1], atol=1e-5)
    assert torch.allclose(readout(finals[2][5:6]), expected.logits[2, 5:6], atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(streamed(ids).logits, expected.logits, atol=1e-5)  # head and body are its own again


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_comparison_holds_one_sequence_and_leaves_the_model_as_it_was(tmp_path: Path, kind: str) -> None:
    folder = family(tmp_path / kind, kind)
    ids = torch.arange(3, 51).reshape(3, 16)
    rounded = load_model(folder, torch.float32)
    with torch.no_grad():
        for layer in decoder_layers(rounded):
            for parameter in layer.parameters():
                parameter.mul_(1.1)
    with torch.inference_mode():
        outputs = [model(ids, output_hidden_states=True) for model in (load_model(folder, torch.float32), rounded)]
    found = compare_text(folder, rounded, ids, torch.float32)
    before, after = (output.hidden_states[1] for output in outputs)
    assert found["layers"][0]["hidden_error"] == pytest.approx(float((after - before).square().sum() / before.square().sum()))
    log_p, log_q = (output.logits[:, :-1].double().log_softmax(-1) for output in outputs)
    assert found["kl_divergence"]["mean"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-2)
    with torch.inference_mode():
        assert torch.equal(rounded(ids).logits, outputs[1].logits)
    alone = [compare_text(folder, rounded, tokens[None], torch.float32)["kl_divergence"]["mean"] for tokens in ids]
    assert found["kl_divergence"]["mean"] == pytest.approx(np.mean(alone), rel=1e-5)


def test_questions_are_compared(place: Path, tmp_path: Path) -> None:
    asked = {"questions": str(place / "questions.parquet"), "protocol": "medconceptsqa-4shot", "limit": 6}
    made = run(place, tmp_path / "made", **asked)
    report = json.loads((made.path / "quantization.json").read_text())["questions"]
    assert (report["questions"], report["protocol"], report["limit"]) == (12, "medconceptsqa-4shot", 6)
    evaluate = {"benchmark": asked["questions"], "protocols": [asked["protocol"]], "limit": 6, "dtype": "float32"}
    from biomistral.evaluation.settings import EvaluateSettings

    rows = []
    for name, model in (("a", place / "model"), ("b", made.path)):
        results = execute(EvaluateSettings(model=str(model), **evaluate), tmp_path / name).path
        summary = json.loads((results / "results.json").read_text())["protocols"]["medconceptsqa-4shot"]
        rows.append(summary["overall"]["accuracy"])
    assert [report["accuracy"][name] for name in ("reference", "quantized")] == pytest.approx(rows)
    assert report["accuracy"]["difference"] == pytest.approx(rows[1] - rows[0])
    assert set(made.manifest["facts"]["seconds_per_question"]) == {"reference", "quantized"}
    assert "seconds" not in (made.path / "quantization.json").read_text()
    assert "perplexity" not in made.manifest["facts"]
    assert run(place, tmp_path / "again", **asked).manifest["content"] == made.manifest["content"]


def test_the_command_ends_with_what_a_form_costs(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["quantize", str(place / "model"), "--method", "fp4", "--no-speed", "--out"]
    text = ["--calibration", str(place / "text.txt"), "--sequence-length", "32", "--evaluation-samples", "3"]
    for number, more in enumerate(([], text)):
        with pytest.raises(SystemExit) as ended:
            cli.app(args=[*asked, str(tmp_path / str(number)), *more])
        assert not ended.value.code
        last = capsys.readouterr().out.splitlines()[-1]
        assert " MB, " in last
        assert ("perplexity" in last) == bool(more)
    with pytest.raises(SystemExit):
        cli.app(args=[*asked, str(tmp_path / "1"), *text, "--json"])
    assert json.loads(capsys.readouterr().out)["facts"]["perplexity"]


def answer(question: str, probabilities: list[float], right: str = "A", shot_set: int = 0, prompt: str = "p") -> dict[str, Any]:
    chosen = "ABCD"[int(np.argmax(probabilities))]
    return {"question": question, "shot_set": shot_set, "prompt_hash": prompt, "probabilities": probabilities, "chosen": chosen,
            "right": chosen == right, "seconds": 0.5}


def test_answers_by_hand() -> None:
    before = [answer("1", [0.5, 0.5]), answer("2", [0.75, 0.25]), answer("3", [0.2, 0.8])]
    after = [answer("3", [0.6, 0.4]), answer("1", [0.5, 0.5]), answer("2", [0.25, 0.75])]
    found = compare_answers(before, after)
    terms = [0.0, 0.75 * math.log(3) - 0.25 * math.log(3), 0.2 * math.log(1 / 3) + 0.8 * math.log(2)]
    assert found["distribution"]["kl_divergence"]["mean"] == pytest.approx(np.mean(terms))
    assert found["distribution"]["kl_divergence"]["p99"] == pytest.approx(np.quantile(terms, 0.99))
    assert found["distribution"]["flips"] == pytest.approx(2 / 3)
    assert found["accuracy"]["reference"] == found["accuracy"]["quantized"] == pytest.approx(2 / 3)
    assert found["accuracy"]["p"] == 1
    assert found["accuracy"]["interval"][0] < 0 < found["accuracy"]["interval"][1]
    with pytest.raises(UserError, match="not asked the same questions"):
        compare_answers(before, after[1:])
    with pytest.raises(UserError, match="with the same prompts"):
        compare_answers(before, [*after[1:], answer("3", [0.6, 0.4], prompt="other")])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6))
def test_divergence_is_never_negative_and_none_from_oneself(weights: list[list[int]]) -> None:
    probabilities = [[(one + 0.01) / (sum(row) + 0.04) for one in row] for row in weights]
    rows = [answer(str(number), own) for number, own in enumerate(probabilities)]
    same = compare_answers(rows, rows)
    assert same["distribution"] == {"kl_divergence": {"mean": 0, "p99": 0}, "flips": 0}
    assert same["accuracy"]["difference"] == 0
    turned = compare_answers(rows, [answer(row["question"], row["probabilities"][::-1]) for row in rows])
    assert turned["distribution"]["kl_divergence"]["mean"] >= 0


def test_what_cannot_be_measured_is_refused_before_any_work(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, questions = str(place / "text.txt"), str(place / "questions.parquet")
    (tmp_path / "short.txt").write_text("aspirin")
    for message, chosen in (
        ("give 0 sequences of 32, 3 are needed", {"calibration": str(tmp_path / "short.txt")}),
        ("sequence_length 513 is longer than the model's 512", {"calibration": text, "sequence_length": 513}),
        ("split 'tests': the benchmark has no such questions", {"questions": questions, "split": "tests"}),
        ("no such file", {"questions": str(tmp_path / "none.parquet")}),
    ):
        with pytest.raises(UserError, match=message):
            run(place, tmp_path / "out", **chosen)
    monkeypatch.setattr(measure, "available_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"questions: asking .* 0\.0 GB are free; leave them out"):
        run(place, tmp_path / "out", questions=questions)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))


def test_cut_off_between_two_measurements(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"calibration": str(place / "text.txt"), "questions": str(place / "questions.parquet"), "limit": 2}
    whole = run(place, tmp_path / "whole", **both)
    with monkeypatch.context() as patched:
        patched.setattr(measure, "_answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(place, tmp_path / "cut", **both)
    monkeypatch.setattr(measure, "compare_text", lambda *_: pytest.fail("the text was measured already"))
    assert run(place, tmp_path / "cut", **both).manifest["content"] == whole.manifest["content"]


def test_memory_and_speed_in_a_process_of_their_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=6, hidden=512, dtype="bfloat16")
    weights = 2 * sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(model).parameters())
    found = measured(model, "cpu", "bfloat16")
    assert weights <= found["weight_bytes"] < 1.01 * weights  # and the rotary embeddings' frequencies
    assert 0.9 * weights < found["resident_bytes"] < weights + 40e6
    assert found["prefill_tokens_per_second"] > found["decode_tokens_per_second"] > 0
    assert (found["dtype"], found["prefill_tokens"]) == ("bfloat16", 512 - 33)
    with pytest.raises(UserError, match=r"memory and speed could not be measured \(.*no config\.json\); .*--no-speed"):
        measured(tmp_path, "cpu", "bfloat16")


def test_speed_is_a_fact_and_no_part_of_the_model(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.0)
    monkeypatch.setattr(measure, "measured", lambda folder, _, dtype: probe.probe(folder, CPU, getattr(torch, dtype)))
    made, plain = run(place, tmp_path / "made", Machine(speed=True)), run(place, tmp_path / "plain")
    assert (made.key, made.manifest["content"]) == (plain.key, plain.manifest["content"])
    speed = made.manifest["facts"]["speed"]
    assert speed["reference"]["weight_bytes"] > 1.5 * speed["quantized"]["weight_bytes"]
    assert "speed" not in plain.manifest["facts"]
