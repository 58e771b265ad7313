"""The training stages through their front door: against a plain loop, and what they write."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from biomistral.artifact import Artifact, input_key
from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Input
from biomistral.run import execute
from biomistral.training.data.order import indices_of_step
from biomistral.training.data.packed import PackedCorpus
from biomistral.training.settings import FinetuneSettings, LoraSettings, PretrainSettings
from tiny import make_model
from training_inputs import make_corpus, make_examples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def corpus(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("run") / "corpus", model)


def pretrain(model: Path, corpus: Path, out: Path, **changes: Any) -> Artifact:
    exact = {"learning_rate": 1e-2, "batch_sequences": 4, "compute_dtype": "float32", "output_dtype": "float32"}
    return execute(PretrainSettings(model=Input(model), corpus=Input(corpus), **{**exact, **changes}), out)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def test_equals_a_plain_loop(model: Path, corpus: Path, tmp_path: Path) -> None:
    """Three steps against transformers, one document at a time, torch's own loss, clipping and (unfused) AdamW."""
    pretrain(model, corpus, tmp_path / "out", max_steps=3, learning_rate=1e-3, schedule="linear")
    blocks, plain = PackedCorpus(corpus, "train"), load_model(model, torch.float32)
    groups = [{"params": [p for p in plain.parameters() if p.ndim > 1]},
              {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step, row in enumerate(rows_of(tmp_path / "out")[1:4]):
        total, count = torch.zeros(()), 0
        for index in indices_of_step(0, len(blocks), 12, 4, step):
            for ids in np.split(blocks[index].tokens, np.cumsum(blocks[index].lengths)[:-1]):
                tokens = torch.from_numpy(ids)
                logits = plain(tokens[None]).logits[0]
                total = total + cross_entropy(logits[:-1], tokens[1:], reduction="sum")
                count += len(ids) - 1
        optimizer.zero_grad()
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 3)
        optimizer.step()
        assert row["loss"] == pytest.approx(float(total.detach()) / count, rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    found, expected = weights_of(tmp_path / "out"), plain.state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-5)


def test_loss_falls_and_folder_is_a_model(model: Path, corpus: Path, tmp_path: Path) -> None:
    artifact = pretrain(model, corpus, tmp_path / "out", epochs=6, compute_dtype="bfloat16", output_dtype="bfloat16",
                        evaluate_steps=20)
    facts, counts = artifact.manifest["facts"], artifact.manifest["counts"]
    assert facts["final_loss"] < 0.4 * facts["first_loss"]
    assert facts["heldout_loss_after"] < 0.5 * facts["heldout_loss_before"]
    tokens_per_byte = 1 / 3  # as the corpus' packing.json says
    assert facts["heldout_bits_per_byte_after"] == pytest.approx(facts["heldout_loss_after"] / math.log(2) * tokens_per_byte)
    blocks = len(PackedCorpus(corpus, "train"))
    assert counts == {"steps": math.ceil(6 * blocks / 4), "tokens": 6 * blocks * 32, "sequences": 6 * blocks,
                      "trainable_parameters": 99648}
    rows = rows_of(artifact.path)
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, counts["steps"] + 1))
    evaluated = [row["step"] for row in rows if "heldout_loss" in row]
    assert evaluated == [0, *range(20, counts["steps"], 20), counts["steps"]]
    names = {path.name for path in artifact.path.iterdir()}
    assert "checkpoints" not in names
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert "lm_head.weight" not in weights_of(artifact.path)
    assert load_model(artifact.path).dtype == torch.bfloat16
    assert str(tmp_path) not in (artifact.path / "config.json").read_text()


def test_bfloat16_with_masters_follows_float32(model: Path, corpus: Path, tmp_path: Path) -> None:
    exact = pretrain(model, corpus, tmp_path / "exact", epochs=3, learning_rate=1e-3)
    rounded = pretrain(model, corpus, tmp_path / "rounded", epochs=3, learning_rate=1e-3, compute_dtype="bfloat16")
    for mine, theirs in zip(rows_of(rounded.path), rows_of(exact.path), strict=True):
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)


def test_tiny_steps_are_not_lost(model: Path, corpus: Path, tmp_path: Path) -> None:
    """At a learning rate where bf16 weights could not move (1e-6 of weights of 0.02), the float32 masters do."""
    out = pretrain(model, corpus, tmp_path / "out", max_steps=4, learning_rate=1e-6, compute_dtype="bfloat16")
    before = load_model(model, torch.float32).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (weights_of(out.path)[name] - before[name]).abs()
    assert 5e-7 < float(moved.mean()) < 5e-6


def test_run_twice_is_the_same_and_memory_savers_change_nothing(model: Path, corpus: Path, tmp_path: Path) -> None:
    first = weights_of(pretrain(model, corpus, tmp_path / "a", max_steps=5).path)
    again = weights_of(pretrain(model, corpus, tmp_path / "b", max_steps=5).path)
    saving = weights_of(pretrain(model, corpus, tmp_path / "c", max_steps=5, gradient_checkpointing=True,
                                 micro_batch_tokens=1).path)
    other = weights_of(pretrain(model, corpus, tmp_path / "d", max_steps=5, seed=1).path)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, tensor in first.items():
        torch.testing.assert_close(saving[name], tensor, rtol=1e-2, atol=1e-4)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_untied_head_is_trained_too(corpus: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "untied", tied=False, architecture="mistral")
    before = weights_of(folder)
    after = weights_of(pretrain(folder, corpus, tmp_path / "out", max_steps=2).path)
    assert set(after) == set(before)
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_nan_stops_before_the_update(corpus: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"of step \d+ is not a finite number.*documents: doc\d-\d, .* and \d+ more"):
        pretrain(folder, corpus, out, learning_rate=1e30, schedule="constant", max_steps=9, clip_norm=1e30, checkpoint_steps=1,
                 evaluate_sequences=0)
    assert list(tmp_path.glob(".out.*.partial/checkpoints/step-*/*.safetensors"))
    weights = weights_of(folder)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError):
        pretrain(folder, corpus, tmp_path / "other", max_steps=2)


def finetune(model: Path, train: Path, out: Path, **changes: Any) -> Artifact:
    fast = {"learning_rate": 5e-3, "epochs": 8, "batch_sequences": 2, "sequence_length": 96, "output_dtype": "float32",
            "compute_dtype": "float32"}
    return execute(FinetuneSettings(model=Input(model), train=Input(train), **{**fast, **changes}), out)


def test_full_finetuning_learns_the_answers(model: Path, tmp_path: Path) -> None:
    train = make_examples(tmp_path / "train.jsonl")
    artifact = finetune(model, train, tmp_path / "out", method="full", validation=Input(train), epochs=30,
                        learning_rate=1e-2)
    assert artifact.manifest["facts"]["heldout_loss_after"] < 0.1
    trained, tokenizer = load_model(artifact.path), load_tokenizer(artifact.path)
    ids = tokenizer("What is I10? Answer:", return_tensors="pt")
    answer = trained.generate(**ids, max_new_tokens=12, do_sample=False)[0][ids.input_ids.shape[1]:]
    assert tokenizer.decode(answer, skip_special_tokens=True) == " essential hypertension"
    assert answer[-1] == tokenizer.eos_token_id


def test_lora_folder_is_base_plus_adapter(model: Path, tmp_path: Path) -> None:
    """The merged folder computes what peft computes from the base model and the saved adapter."""
    artifact = finetune(model, make_examples(tmp_path / "train.jsonl"), tmp_path / "out", lora=LoraSettings(rank=4, alpha=8))
    facts = artifact.manifest["facts"]
    assert facts["final_loss"] < facts["first_loss"]
    name = f"llama-{input_key(model)[:16]}"
    assert (facts["merged_into"]["model"], facts["merged_into"]["weights"]) == (name, "base")
    config = json.loads((artifact.path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == name
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (4, 8, 0.05, "none")
    base = load_model(model, torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, str(artifact.path / "adapter")).eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
        with adapted.disable_adapter():
            plain = adapted(ids).logits
        found = load_model(artifact.path)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((found - plain).abs().max()) > 0.1


def test_unknown_lora_target_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no linear layer is named 'qkv'; this model has .*q_proj"):
        finetune(model, make_examples(tmp_path / "t.jsonl"), tmp_path / "out", lora=LoraSettings(targets=("q_proj", "qkv")))
