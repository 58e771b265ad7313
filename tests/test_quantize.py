"""The quantize stage through its public door: what it writes, refuses, reports, and that work cut off goes on."""

import json
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from biomistral.artifact import Artifact, verify
from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer, tokenizer_digest
from biomistral.quantization.calibrated import stage, streams
from biomistral.quantization.calibrated.layer import quantize_layer
from biomistral.quantization.calibrated.samples import draw
from biomistral.quantization.settings import QuantizeSettings
from biomistral.run import execute
from int_matrices import naive_weight
from tiny import TEXT, make_model

CHOSEN: dict[str, Any] = {"group_size": 32, "samples": 4, "sequence_length": 32, "evaluation_samples": 2}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"{number}. {TEXT}" for number in range(30)), encoding="utf-8")
    return path


def run(model: Path, calibration: Path, out: Path, **settings: Any) -> Artifact:
    return execute(QuantizeSettings(model=str(model), calibration=str(calibration), **{**CHOSEN, **settings}), out)


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_written_model_is_what_was_measured(tmp_path: Path, text: Path, dtype: str) -> None:
    model = make_model(tmp_path / "model", dtype=dtype, tied=dtype != "float16")
    made = run(model, text, tmp_path / "awq")
    assert verify(made) == []
    assert not list(made.path.glob(".*.tmp"))
    report = json.loads((made.path / "quantization.json").read_text())
    config = json.loads((made.path / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
                                             "version": "gemm", "modules_to_not_convert": None}
    evaluated = draw(text, model, 400, 32, 6, 0)[:2]
    nll = []
    for folder in (model, made.path):
        with torch.inference_mode():
            log_p = torch.log_softmax(load_model(folder, torch.float32)(evaluated).logits, -1)
        nll.append(log_p)
    for key, log_p in zip(("reference", "quantized"), nll, strict=True):
        loss = -log_p[:, :-1].gather(2, evaluated[:, 1:, None]).mean()
        assert report["perplexity"][key] == pytest.approx(float(loss.exp()), rel=0.01 if dtype == "bfloat16" else 1e-4)
    if dtype != "bfloat16":
        divergence = (nll[0].exp() * (nll[0] - nll[1])).sum(-1)[:, :-1].flatten()
        assert report["kl_divergence"]["mean"] == pytest.approx(float(divergence.mean()), rel=1e-2)
        assert report["kl_divergence"]["p99"] == pytest.approx(float(np.quantile(divergence.numpy(), 0.99)), rel=1e-2)
    assert report["tokens"] == 62
    assert report["size"]["bits_per_weight"] == 4 + 20 / 32
    assert made.manifest["facts"]["seconds"] > 0
    assert len(report["layers"]) == 2


def test_round_to_nearest_is_the_plain_rounding(tmp_path: Path, text: Path) -> None:
    model = make_model(tmp_path / "model")
    made = run(model, text, tmp_path / "rtn", method="rtn")
    original, tensors = all_tensors(model), all_tensors(made.path)
    name = "model.layers.1.mlp.down_proj"
    weight = naive_weight({suffix: tensors[f"{name}.{suffix}"] for suffix in ("qweight", "qzeros", "scales")}, 32)
    step = tensors[f"{name}.scales"].float().T.repeat_interleave(32, 1).numpy()
    assert (np.abs(weight - original[f"{name}.weight"].numpy()) <= 1.01 * step).all()
    assert torch.equal(tensors["model.embed_tokens.weight"], original["model.embed_tokens.weight"].bfloat16())
    assert "lm_head.weight" not in tensors
    index = json.loads((made.path / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors)


def outliers(folder: Path) -> Path:
    """A model some of whose channels are far larger: what AWQ is for."""
    make_model(folder, hidden=64)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[::9] = 30.0
    model.save_pretrained(folder)
    return folder


def test_awq_beats_rounding_where_channels_differ(tmp_path: Path, text: Path) -> None:
    model = outliers(tmp_path / "model")
    awq, plain = (run(model, text, tmp_path / method, method=method).manifest["facts"] for method in ("awq", "rtn"))
    assert awq["perplexity"]["reference"] == plain["perplexity"]["reference"]
    assert awq["kl_divergence"]["mean"] < 0.7 * plain["kl_divergence"]["mean"]
    assert awq["layers"][0]["hidden_error"] < plain["layers"][0]["hidden_error"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in ("manifest.json", ".lock")}


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from biomistral.quantization.calibrated import stage, streams
write = stage.Quantizer._write
def dies(self, number, tensors):
    write(self, number, tensors)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
stage.Quantizer._write = dies
from pathlib import Path
from test_quantize import run
run(Path({model!r}), Path({text!r}), Path({out!r}))
"""


def test_killed_work_goes_on_at_the_next_layer(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model", layers=3)
    whole = files_of(run(model, text, tmp_path / "whole").path)
    code = KILLED.format(tests=str(Path(__file__).parent), model=str(model), text=str(text), out=str(tmp_path / "cut"))
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == -signal.SIGKILL
    (partial,) = tmp_path.glob(".cut.*.partial")
    assert len(list(partial.glob("*.safetensors"))) == 3
    (partial / ".model-00004-of-00004.safetensors.tmp").write_bytes(b"half a shard")
    made: list[int] = []
    monkeypatch.setattr(stage, "quantize_layer", lambda *given: (made.append(1), quantize_layer(*given))[1])
    assert files_of(run(model, text, tmp_path / "cut").path) == whole
    assert made == [1]  # of three layers


def test_states_on_disk_change_no_bit_and_are_never_all_in_memory(tmp_path: Path, text: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = make_model(tmp_path / "model"), []
    made.append(run(model, text, tmp_path / "memory", samples=12))
    first, known, alive = stage.first_hidden, [], []

    def followed(*arguments: Any) -> Any:
        hidden, calls = first(*arguments)
        known.append(weakref.ref(hidden))
        alive.append(sum(one() is not None for one in known))
        return hidden, calls

    monkeypatch.setattr(stage, "first_hidden", followed)
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 8)
    made.append(run(model, text, tmp_path / "disk", samples=12))
    assert len(known) == 1 + 2 + 12
    assert max(alive) <= 2
    assert not list(made[1].path.glob(".*.tmp"))
    names = [sorted(path.name for path in artifact.path.glob("*.safetensors")) for artifact in made]
    assert names[0] == names[1]
    for name in [*names[0], "quantization.json"]:
        assert (made[0].path / name).read_bytes() == (made[1].path / name).read_bytes()


def test_cut_off_after_the_report(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model")
    with monkeypatch.context() as patched:
        patched.setattr("biomistral.artifact._seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(model, text, tmp_path / "cut")
    resumed, whole = run(model, text, tmp_path / "cut"), run(model, text, tmp_path / "whole")
    assert resumed.manifest["content"] == whole.manifest["content"]
    assert resumed.manifest["facts"]["perplexity"] == whole.manifest["facts"]["perplexity"]


def corpus_of(folder: Path, model: Path, tokens: np.ndarray, digest: str | None = None) -> Path:
    (folder / "shards").mkdir(parents=True)
    np.save(folder / "shards" / "heldout-00000.tokens.npy", tokens)
    packing = {"tokenizer": digest or tokenizer_digest(load_tokenizer(model))}
    (folder / "packing.json").write_text(json.dumps(packing))
    return folder


def test_samples_from_a_corpus(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    tokens = (np.arange(10 * 64) % 390).astype(np.uint16).reshape(10, 64)
    corpus = corpus_of(tmp_path / "corpus", model, tokens)
    sequences = draw(corpus, model, 400, 32, 20, 0)
    assert sequences.shape == (20, 32)
    assert {tuple(row) for row in sequences.tolist()} == {tuple(row) for row in tokens.reshape(-1, 32).tolist()}
    assert torch.equal(sequences, draw(corpus, model, 400, 32, 20, 0))
    assert not torch.equal(sequences, draw(corpus, model, 400, 32, 20, 1))
    with pytest.raises(UserError, match="give 20 sequences of 32, 21 are needed"):
        draw(corpus, model, 400, 32, 21, 0)
    with pytest.raises(UserError, match=r"holds token 389, the model knows 300"):
        draw(corpus, model, 300, 32, 20, 0)
    with pytest.raises(UserError, match="another tokenizer"):
        draw(corpus_of(tmp_path / "other", model, tokens, "0" * 64), model, 400, 32, 2, 0)


def test_samples_from_text(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"text": f"{TEXT} 中文 {i}"}, ensure_ascii=False) for i in range(9)) + "\n\n")
    assert draw(lines, model, 400, 16, 4, 0).shape == (4, 16)
    for content, message in (("", "0 tokens give 0 sequences"), ('{"text": 3}', "lines.jsonl:1: an object"),
                             ('{"text": "a"}\n{', "lines.jsonl:2: not JSON")):
        lines.write_text(content)
        with pytest.raises(UserError, match=message):
            draw(lines, model, 400, 16, 4, 0)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        draw(tmp_path / "latin.txt", model, 400, 16, 4, 0)


def nan_in(folder: Path, name: str, value: float) -> Path:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_is_refused_before_the_first_layer(tmp_path: Path, text: Path) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"128 does not divide the 64 inputs of 'self_attn\.q_proj'; use 64 or 32"):
        run(model, text, tmp_path / "out", group_size=128)
    (tmp_path / "short.txt").write_text("aspirin")
    with pytest.raises(UserError, match=r"sequences of 512, 6 are needed"):
        run(model, tmp_path / "short.txt", tmp_path / "out", sequence_length=512)
    with pytest.raises(UserError, match="longer than the model's 512 positions"):
        run(model, text, tmp_path / "out", sequence_length=513)
    done = run(model, text, tmp_path / "done", method="rtn")
    with pytest.raises(UserError, match=r"already quantised \(awq\)"):
        run(done.path, text, tmp_path / "out")
    other = make_model(tmp_path / "gpt2")
    AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=400)).save_pretrained(other)
    assert AutoConfig.from_pretrained(other).model_type == "gpt2"
    with pytest.raises(UserError, match="architecture 'gpt2' cannot be quantised"):
        run(other, text, tmp_path / "out")
    with pytest.raises(UserError, match="layout: autoawq cannot hold 8 bits; use layout: compressed-tensors"):
        run(model, text, tmp_path / "out", bits=8)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))


def test_numbers_that_are_none_name_their_layer(tmp_path: Path, text: Path) -> None:
    model = nan_in(make_model(tmp_path / "model"), "model.layers.1.mlp.up_proj.weight", float("nan"))
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight' holds NaN"):
        run(model, text, tmp_path / "out")
    huge = nan_in(make_model(tmp_path / "huge"), "model.layers.1.mlp.up_proj.weight", 3e38)
    with pytest.raises(UserError, match=r"layer 1 \('model\.layers\.1'\): its activations"):
        run(huge, text, tmp_path / "out")
