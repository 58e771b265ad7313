"""Adapters through the finetune stage: QLoRA against arithmetic written here, going on from one, and other bases."""

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from biomistral.artifact import Artifact
from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.recipe import Input
from biomistral.run import execute
from biomistral.training.settings import FinetuneSettings, LoraSettings, QloraSettings
from tiny import make_model
from training_inputs import make_examples

needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra bitsandbytes")
NF4 = np.array([-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0, 0.0795803, 0.1609302, 0.2461123,
                0.3379152, 0.4407098, 0.5626170, 0.7229568, 1])
"""Dettmers et al. 2023, appendix E."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qlora") / "model")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("qlora") / "train.jsonl")


def finetune(model: Path, train: Path, out: Path, method: str = "qlora", **changes: Any) -> Artifact:
    fast = {"learning_rate": 5e-3, "epochs": 4, "batch_sequences": 2, "sequence_length": 96, "output_dtype": "float32",
            "compute_dtype": "float32", "lora": LoraSettings(rank=4, alpha=8, dropout=0.0), "validation": Input(train)}
    return execute(FinetuneSettings(model=Input(model), train=(Input(train),), method=method, **{**fast, **changes}), out)


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 64 values divided by their largest and rounded to the nearest of 16 levels, and back."""
    blocks = weight.double().numpy().reshape(-1, 64)
    scale = np.abs(blocks).max(1, keepdims=True)
    nearest = np.abs((blocks / scale)[..., None] - NF4).argmin(-1)
    return torch.from_numpy((NF4[nearest] * scale).reshape(weight.shape)).float()


def int8(weight: torch.Tensor) -> torch.Tensor:
    """Rows, in the float16 that bitsandbytes takes, divided by their largest value, rounded to 127ths, and back."""
    weight = weight.half().float()
    scale = weight.abs().amax(1, keepdim=True)
    return (weight / scale * 127).round() * scale / 127


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(3, 40)[None]).logits
    return found


def expected_logits(model: Path, adapter: Path, rounding: Any) -> torch.Tensor:
    """peft's own: the base with the decoder's linear weights rounded, and the saved adapter."""
    base = load_model(model, torch.float32)
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = rounding(module.weight.data)
    return logits(peft.PeftModel.from_pretrained(base, str(adapter)))


@needs_bitsandbytes
@pytest.mark.parametrize(("storage", "rounding", "bits"), [("nf4", nf4, 4.5), ("int8", int8, 8 + 4 / 9)])
def test_merged_into_what_it_was_trained_on(storage: str, rounding: Any, bits: float, model: Path, train: Path,
                                            tmp_path: Path) -> None:
    """The folder computes what the base computes when rounded by this file's arithmetic, with peft's reading of the adapter."""
    quantised = QloraSettings(storage=storage, double_quantization=False)
    artifact = finetune(model, train, tmp_path / "out", qlora=quantised)
    facts = artifact.manifest["facts"]
    assert facts["heldout_loss_after"] < facts["heldout_loss_before"] - 0.1
    assert facts["merged_into"]["weights"] == f"dequantized {storage}"
    found = logits(load_model(artifact.path))
    torch.testing.assert_close(found, expected_logits(model, artifact.path / "adapter", rounding), rtol=1e-3, atol=1e-4)
    assert float((found - expected_logits(model, artifact.path / "adapter", lambda weight: weight)).abs().max()) > 1e-3
    assert facts["quantized"]["bits_per_weight"] == pytest.approx(bits, rel=1e-5)  # 32-bit scales by 64 values, or by row
    again = finetune(model, train, tmp_path / "again", qlora=quantised)
    first, second = (made.manifest["files"] for made in (artifact, again))
    assert all(first[name]["blake3"] == second[name]["blake3"] for name in first if name != "metrics.jsonl")  # holds seconds


@needs_bitsandbytes
def test_merged_into_the_models_own_weights(model: Path, train: Path, tmp_path: Path) -> None:
    artifact = finetune(model, train, tmp_path / "out", qlora=QloraSettings(merge_into="base"))
    assert artifact.manifest["facts"]["merged_into"]["weights"] == "base"
    torch.testing.assert_close(logits(load_model(artifact.path)),
                               expected_logits(model, artifact.path / "adapter", lambda weight: weight), rtol=1e-4, atol=1e-5)


@needs_bitsandbytes
def test_double_quantisation_saves_and_bfloat16_follows(model: Path, train: Path, tmp_path: Path) -> None:
    exact = finetune(model, train, tmp_path / "exact", qlora=QloraSettings(double_quantization=False)).manifest["facts"]
    double = finetune(model, train, tmp_path / "double", compute_dtype="bfloat16").manifest["facts"]
    plain = finetune(model, train, tmp_path / "plain", method="lora").manifest["facts"]
    assert double["quantized"]["bits_per_weight"] < exact["quantized"]["bits_per_weight"] == 4.5
    assert exact["flop"] == plain["flop"]
    assert exact["planned_memory_bytes"] < plain["planned_memory_bytes"]
    for name in ("heldout_loss_before", "heldout_loss_after"):
        assert double[name] == pytest.approx(exact[name], rel=0.02)
        assert exact[name] == pytest.approx(plain[name], rel=0.05)
    assert "quantized" not in plain


def test_without_bitsandbytes_it_is_refused_before_any_work(model: Path, train: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else there(name, *rest))
    with pytest.raises(UserError, match=r"method: qlora needs bitsandbytes.*'biomistral\[bitsandbytes\]'"):
        finetune(model, train, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def adapter(model: Path, train: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(model, train, tmp_path_factory.mktemp("adapter") / "first", method="lora").path / "adapter"


def test_an_adapter_names_no_place(model: Path, train: Path, adapter: Path, tmp_path: Path) -> None:
    """Trained on a copy of the model that lies elsewhere, the adapter is the same to the byte."""
    elsewhere = shutil.copytree(model, tmp_path / "elsewhere")
    copied = shutil.copy(train, tmp_path / "t.jsonl")
    other = finetune(elsewhere, Path(copied), tmp_path / "out", method="lora").path / "adapter"
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    for path in adapter.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()
        assert str(model.parent).encode() not in path.read_bytes()
    base = json.loads((adapter / "base.json").read_text())
    assert base["name"] == json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base["name"] == f"llama-{base['key'][:16]}"


def test_training_goes_on_from_an_adapter(model: Path, train: Path, adapter: Path, tmp_path: Path) -> None:
    before = json.loads((adapter.parent / "manifest.json").read_text())["facts"]
    artifact = finetune(model, train, tmp_path / "out", method="lora", adapter=Input(adapter), lora=LoraSettings(rank=1),
                        max_steps=2)
    facts = artifact.manifest["facts"]
    assert math.isclose(facts["heldout_loss_before"], before["heldout_loss_after"], rel_tol=1e-6)
    assert facts["heldout_loss_after"] < facts["heldout_loss_before"]
    shapes = {name: tensor.shape for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    assert shapes == {name: tensor.shape for name, tensor in
                      load_file(artifact.path / "adapter" / "adapter_model.safetensors").items()}
    assert json.loads((artifact.path / "adapter" / "adapter_config.json").read_text())["r"] == 4


@pytest.mark.parametrize(("changes", "problem"), [({"seed": 5}, ""), ({"hidden": 128}, r"q_proj\S* is .*, on this model it is"),
                                                  ({"layers": 3}, r"only this model has .*layers\.2"),
                                                  ({"layers": 1}, r"only the adapter has .*layers\.1")])
def test_an_adapter_for_another_base_is_refused(changes: dict[str, int], problem: str, train: Path, adapter: Path,
                                                tmp_path: Path) -> None:
    """By the key beside it; without one, as in others' adapters, by what it does not fit."""
    other = make_model(tmp_path / "other", **changes)
    with pytest.raises(UserError, match=r"an adapter for another base: trained on llama-\w+ \(key .*give the model it was"):
        finetune(other, train, tmp_path / "out", method="lora", adapter=Input(adapter))
    foreign = shutil.copytree(adapter, tmp_path / "foreign")
    (foreign / "base.json").unlink()
    if problem:
        with pytest.raises(UserError, match=f"an adapter for another base: .*{problem}"):
            finetune(other, train, tmp_path / "out", method="lora", adapter=Input(foreign))


CONFIGS: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "kind": {"peft_type": "IA3"}, "no rank": {"r": None}}


def _damaged(adapter: Path, what: str) -> None:
    config, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    if what == "no config":
        config.unlink()
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(b"\x00" * 9)
    elif what == "not JSON":
        config.write_text("{")
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), **CONFIGS[what]}))


@pytest.mark.parametrize(("what", "problem"), [
    ("no config", "not an adapter folder: it has no adapter_config"), ("no weights", "it has no adapter_model.safetensors"),
    ("cut weights", "truncated or corrupt"), ("not JSON", "adapter_config.json: not JSON"),
    ("dora", r"not a plain LoRA adapter \(use_dora"), ("kind", r"not a plain LoRA adapter \(IA3"),
    ("no rank", "r, lora_alpha and target_modules")])
def test_damaged_adapters_are_refused(what: str, problem: str, model: Path, train: Path, adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    _damaged(copy, what)
    with pytest.raises(UserError, match=problem):
        finetune(model, train, tmp_path / "out", method="lora", adapter=Input(copy))


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="fsdp divides float weights"):
        FinetuneSettings(model=Input("m"), train=(Input("t"),), method="qlora", parallel="fsdp")
    with pytest.raises(ValueError, match="method is 'full'"):
        FinetuneSettings(model=Input("m"), train=(Input("t"),), method="full", adapter=Input("a"))
