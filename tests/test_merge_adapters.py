"""Low-rank adapters as inputs: the same bits as peft's own merge, read in any chunks, and refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from biomistral.artifact import input_key
from biomistral.errors import UserError
from biomistral.merging.plan import plan_merge
from biomistral.merging.settings import MergeSettings
from biomistral.merging.stream import stream
from biomistral.models.load import load_model
from biomistral.run import execute
from tiny import make_model

Q = "model.layers.1.self_attn.q_proj"
ALONE = "merge_method: passthrough\nmodels: [{model: M+L}]\n"
TASK = """merge_method: ties
models: [{model: M+L, parameters: {weight: 0.8, density: 0.4}}]
base_model: M
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "M", dtype="bfloat16", hidden=96, tied=False)


def make_adapter(model: Path, folder: Path, **options: Any) -> Path:
    """An adapter as peft saves it, with random weights in both halves."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **options}
    adapted = peft.get_peft_model(load_model(model), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.detach().copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapted.save_pretrained(str(folder))
    return folder


def merged_by_peft(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    whole = peft.PeftModel.from_pretrained(load_model(model), str(adapter)).merge_and_unload()
    found: dict[str, torch.Tensor] = whole.state_dict()
    return found


def merged(folder: Path, text: str, model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    path = folder / "merge.yaml"
    path.write_text(text)
    made = MergeSettings(config=str(path), models={"M": str(model), "L": str(adapter)})
    return load_file(execute(made, folder / "out").path / "model.safetensors")


@pytest.mark.parametrize("options", [
    {}, {"use_rslora": True}, {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    {"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head", "embed_tokens"]},
], ids=["plain", "rslora", "patterns", "head", "modules_to_save"])
def test_the_same_bits_as_peft(tmp_path: Path, model: Path, options: dict[str, Any]) -> None:
    adapter = make_adapter(model, tmp_path / "L", **options)
    wanted, found = merged_by_peft(model, adapter), merged(tmp_path, ALONE, model, adapter)
    assert found.keys() == wanted.keys()
    assert all(tensor.equal(wanted[name]) for name, tensor in found.items())
    assert not found[f"{Q}.weight"].equal(load_file(model / "model.safetensors")[f"{Q}.weight"])


def test_float32_keeps_what_a_rounding_would_lose(tmp_path: Path, model: Path) -> None:
    """Half of a small change is below bfloat16's last place; computed in float32 it is there."""
    adapter = make_adapter(model, tmp_path / "L")
    text = ("merge_method: task_arithmetic\nmodels: [{model: M+L, parameters: {weight: 0.5}}]\nbase_model: M\ndtype: float32\n")
    found = merged(tmp_path, text, model, adapter)[f"{Q}.weight"]
    weights = load_file(adapter / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.{Q}.lora_{half}.weight"].double() for half in "AB")
    wanted = load_file(model / "model.safetensors")[f"{Q}.weight"].double() + 0.5 * 1.5 * (b @ a)
    assert torch.allclose(found.double(), wanted, rtol=1e-6, atol=1e-7)


def test_a_merge_with_an_adapter_is_one_with_the_merged_model(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(model, tmp_path / "L")
    whole = make_model(tmp_path / "whole", dtype="bfloat16", hidden=96, tied=False)
    save_file({name: tensor.contiguous() for name, tensor in merged_by_peft(model, adapter).items()},
              whole / "model.safetensors", metadata={"format": "pt"})
    found = merged(tmp_path, TASK, model, adapter)
    path = tmp_path / "other.yaml"
    path.write_text(TASK.replace("M+L", "W"))
    other = execute(MergeSettings(config=str(path), models={"M": str(model), "W": str(whole)}), tmp_path / "other").path
    assert all(tensor.equal(found[name]) for name, tensor in load_file(other / "model.safetensors").items())


def test_chunks_change_no_bit(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(model, tmp_path / "L")
    path = tmp_path / "merge.yaml"
    path.write_text(TASK)
    plan, made = plan_merge(path, {"M": model, "L": adapter}), []
    for chunk in (1, 3 * 4096, 1 << 20):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        stream(plan, folder, chunk=chunk)
        made.append((folder / "model.safetensors").read_bytes())
    assert made[0] == made[1] == made[2]


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(adapter: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(path)).items()}, path)


FIRST = f"base_model.model.{Q}.lora_A.weight"
REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: not JSON"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetensors"),
    (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0" * 40), "adapter_model.safetensors: corrupt"),
    (lambda folder: edit_config(folder, peft_type="IA3"), "peft_type is 'IA3'; only LORA"),
    (lambda folder: edit_config(folder, use_dora=True), "use_dora is True: not a plain LoRA adapter; merge it into its model"),
    (lambda folder: edit_config(folder, bias="all"), "bias is 'all'"),
    (lambda folder: edit_config(folder, r=8), "has rank 4 in lora_A and 4 in lora_B, adapter_config.json says 8"),
    (lambda folder: edit_config(folder, lora_alpha=None), "r and lora_alpha, two numbers"),
    (lambda folder: edit_weights(folder, lambda w: {k: v for k, v in w.items() if k != FIRST}), "lora_A of .* is missing"),
    (lambda folder: edit_weights(folder, lambda w: w | {FIRST: torch.ones(4, 95)}), r"q_proj.weight is \[96, 95\] here, in"),
    (lambda folder: edit_weights(folder, lambda w: {k.replace("layers.1", "layers.7"): v for k, v in w.items()}),
     "an adapter for another base: .* has no model.layers.7"),
    (lambda folder: edit_weights(folder, lambda w: w | {"lora_magnitude": torch.ones(2)}), "lora_magnitude is no part of"),
]


@pytest.mark.parametrize(("edit", "message"), REFUSED)
def test_refused(tmp_path: Path, model: Path, edit: Callable[[Path], object], message: str) -> None:
    adapter = make_adapter(model, tmp_path / "L")
    edit(adapter)
    path = tmp_path / "merge.yaml"
    path.write_text(TASK)
    with pytest.raises(UserError, match=message):
        plan_merge(path, {"M": model, "L": adapter})


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(model, tmp_path / "L")
    (adapter / "base.json").write_text(json.dumps({"name": "other", "key": "2" * 64}))
    path = tmp_path / "merge.yaml"
    path.write_text(TASK)
    with pytest.raises(UserError, match=r"an adapter for another base: trained on other \(key 222222222222\)"):
        plan_merge(path, {"M": model, "L": adapter})
    (adapter / "base.json").write_text("[1]")
    with pytest.raises(UserError, match="a JSON object was expected"):
        plan_merge(path, {"M": model, "L": adapter})
    (adapter / "base.json").write_text(json.dumps({"name": "this", "key": input_key(model)}))
    assert plan_merge(path, {"M": model, "L": adapter}).tensors
