"""nf4, fp4 and int8 through the quantize stage: what transformers itself writes, what it stands for, and what is refused."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from biomistral.artifact import Artifact, verify
from biomistral.errors import UserError
from biomistral.models.load import load_model, num_parameters
from biomistral.quantization import bitsandbytes as stage
from biomistral.quantization import shards
from biomistral.quantization.settings import QuantizeSettings
from biomistral.run import execute
from tiny import make_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra bitsandbytes")
IDS = torch.arange(3, 43).reshape(2, 20)


def run(model: Path, out: Path, **chosen: Any) -> Artifact:
    return execute(QuantizeSettings(model=str(model), **chosen), out)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def as_transformers_saves(model: Path, out: Path, method: str, double: bool) -> Path:
    if method == "int8":
        wanted = BitsAndBytesConfig(load_in_8bit=True)
    else:
        wanted = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=method, bnb_4bit_use_double_quant=double,
                                    bnb_4bit_compute_dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=wanted, dtype=torch.bfloat16, device_map="cpu")
    loaded.save_pretrained(out)
    return out


@pytest.mark.parametrize(("method", "double", "tied"), [("nf4", True, True), ("nf4", False, False), ("fp4", True, False),
                                                        ("int8", False, True)])
def test_the_folder_is_what_transformers_itself_saves(tmp_path: Path, method: str, double: bool, tied: bool) -> None:
    model = make_model(tmp_path / "model", dtype="bfloat16", tied=tied)
    made = run(model, tmp_path / "ours", method=method, double_quantization=double)
    assert verify(made) == []
    theirs = as_transformers_saves(model, tmp_path / "theirs", method, double)
    ours, expected = tensors_of(made.path), tensors_of(theirs)
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name
    entry, other = (json.loads((folder / "config.json").read_text())["quantization_config"] for folder in (made.path, theirs))
    assert entry == other
    index = json.loads((made.path / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(ours)
    loaded = AutoModelForCausalLM.from_pretrained(made.path, device_map="cpu")
    with torch.inference_mode():
        assert torch.equal(load_model(made.path)(IDS).logits, loaded(IDS).logits)


def naive(name: str, tensors: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """The weight (outputs, inputs) that the stored tensors stand for, float32, by the format's description."""
    if f"{name}.SCB" in tensors:
        return tensors[f"{name}.weight"].float() * tensors[f"{name}.SCB"][:, None] / 127
    codes = tensors[f"{name}.weight"].flatten()
    levels = tensors[f"{name}.weight.quant_map"][torch.stack((codes >> 4, codes & 15), -1).flatten().long()]
    scales = tensors[f"{name}.weight.absmax"]
    if f"{name}.weight.nested_absmax" in tensors:
        state = next(tensor for key, tensor in tensors.items() if key.startswith(f"{name}.weight.quant_state"))
        offset = json.loads(bytes(state.tolist()))["nested_offset"]
        blocks = tensors[f"{name}.weight.nested_absmax"].repeat_interleave(256)[: len(scales)]
        scales = tensors[f"{name}.weight.nested_quant_map"][scales.long()] * blocks + offset
    return (levels * scales.repeat_interleave(64)[: levels.numel()]).view(shape)


@pytest.mark.parametrize(("method", "double"), [("nf4", True), ("nf4", False), ("fp4", True), ("int8", True)])
def test_loaded_it_computes_with_what_the_tensors_stand_for(tmp_path: Path, method: str, double: bool) -> None:
    model = make_model(tmp_path / "model", hidden=48 if method == "int8" else 64)
    made = run(model, tmp_path / "made", method=method, double_quantization=double)
    tensors, plain = tensors_of(made.path), AutoModelForCausalLM.from_pretrained(model)
    for parameter in plain.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what is not quantised is stored in 16 bits
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = naive(name, tensors, tuple(module.weight.shape))
            error = (weight - module.weight).norm() / module.weight.norm()
            assert error < {"nf4": 0.12, "fp4": 0.2, "int8": 0.01}[method]
            module.weight.data = weight
    loaded = load_model(made.path, torch.float32)
    with torch.inference_mode():
        expected, found = plain(IDS).logits, loaded(IDS).logits
    assert (found - expected).norm() / expected.norm() < 0.02  # dequantised weights are rounded to bfloat16
    assert num_parameters(loaded) == num_parameters(plain) == made.manifest["counts"]["parameters"]
    size = made.manifest["facts"]["size"]
    stored = sum(tensor.nbytes for name, tensor in tensors.items()
                 if name.removesuffix(".weight") not in ("model.embed_tokens", "model.norm") and "layernorm" not in name)
    assert size["bits_per_weight"] == pytest.approx(8 * stored / size["quantized_parameters"])


def test_bfloat16_on_this_processor_s_kernel(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dtype="bfloat16")
    made = run(model, tmp_path / "made", method="nf4")
    exact, fast = load_model(made.path, torch.float32), load_model(made.path)
    with torch.inference_mode():
        expected = exact(IDS).logits
        assert (fast(IDS).logits - expected).norm() / expected.norm() < 0.03
        one = torch.cat([fast(IDS[:1, :length]).logits[:, -1] for length in (1, 7, 20)])
        assert torch.allclose(one, fast(IDS).logits[0, [0, 6, 19]], atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_parts_hold_everything_in_order_and_no_more_than_they_may(sizes: list[int], most: int) -> None:
    named = [(str(number), size) for number, size in enumerate(sizes)]
    parts = shards.in_parts(named, most)
    assert [name for part in parts for name in part] == [name for name, _ in named]
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        held = sum(sizes[int(name)] for name in part)
        assert held <= most or len(part) == 1
        assert after is None or held + sizes[int(after[0])] > most


def test_cut_off_work_goes_on_at_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model", dtype="bfloat16")
    monkeypatch.setattr(stage, "in_parts", lambda sizes: shards.in_parts(sizes, 20_000))
    whole = run(model, tmp_path / "whole", method="nf4")
    assert len(list(whole.path.glob("*.safetensors"))) > 4
    written: list[Path] = []
    made: list[Path] = []

    def noted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        made.append(path)
        save_file(tensors, path, metadata)

    def cut(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt  # the third is there under its temporary name only

    with monkeypatch.context() as patched:
        patched.setattr(shards, "save_file", cut)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "cut", method="nf4")
    monkeypatch.setattr(shards, "save_file", noted)
    again = run(model, tmp_path / "cut", method="nf4")
    assert again.manifest["content"] == whole.manifest["content"]
    assert made[0].name == written[2].name
    assert not list(again.path.glob(".*.tmp"))


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model", dtype="bfloat16")
    made = run(model, tmp_path / "made", method="int8")
    with pytest.raises(UserError, match=r"already quantised \(bitsandbytes\); quantise its 16-bit original"):
        run(made.path, tmp_path / "out", method="nf4")
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN"):
        run(damaged, tmp_path / "out", method="nf4")
    narrow = make_model(tmp_path / "narrow", hidden=48)
    with pytest.raises(UserError, match=r"'model\.layers\.0\.self_attn\.q_proj' has 48 inputs, no multiple of 64"):
        run(narrow, tmp_path / "out", method="fp4")
    with monkeypatch.context() as full:
        full.setattr(stage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(UserError, match=r"GB are needed, 0\.0 GB are free"):
            run(model, tmp_path / "out", method="nf4")
    with pytest.raises(UserError, match="method: awq needs text to calibrate"):
        run(model, tmp_path / "out", method="awq")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else there(name, *rest))
    with pytest.raises(UserError, match=r"method: nf4 needs bitsandbytes.*'biomistral\[bitsandbytes\]'"):
        run(model, tmp_path / "out", method="nf4")
    with pytest.raises(UserError, match=r"made needs bitsandbytes"):
        load_model(made.path)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dtype="bfloat16")
    made = run(model, tmp_path / "made", method="nf4").path
    name = "model.layers.0.mlp.up_proj"

    def changed(change: Any, **entry: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        tensors = tensors_of(folder)
        change(tensors)
        for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
            path.unlink()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= entry
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    for change, entry, message in (
        (lambda t: t.pop(f"{name}.weight"), {}, rf"'{name}\.weight' is missing"),
        (lambda t: t.pop(f"{name}.weight.quant_state.bitsandbytes__nf4"), {}, f"'{name}.weight': not what bitsandbytes stores"),
        (lambda t: t.update({f"{name}.weight": t[f"{name}.weight"][:8].clone()}), {}, "not what bitsandbytes stores"),
        (lambda t: t.pop("model.norm.weight"), {}, r"'model\.norm\.weight' is missing"),
        (lambda t: t.update({"extra": torch.ones(2)}), {}, "'extra' belongs to no part"),
        (lambda _: None, {"bnb_4bit_quant_storage": "bfloat16"}, "only 'uint8' can be read"),
        (lambda _: None, {"bnb_4bit_quant_type": "int3"}, "this bitsandbytes form cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(changed(change, **entry))
