"""Weights that are read tensor by tensor are those of a full load; what is missing, odd or tied wrongly is said in one line."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, MixtralConfig, PreTrainedModel

from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.models.skeleton import homes, weightless
from biomistral.models.stored import open_model, read_whole
from biomistral.training.settings import LoraSettings
from biomistral.training.weights.lora import add_adapter
from tiny import make_model

UP = "model.layers.1.mlp.up_proj.weight"


def change(folder: Path, **changes: Any) -> Path:
    """Write a model's tensors again, with some changed (None: left out)."""
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors",
              {"format": "pt"})
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_each_parameter_is_read_as_a_full_load_has_it(tmp_path: Path, tied: bool, architecture: str) -> None:
    folder = make_model(tmp_path / "model", tied=tied, dtype="bfloat16", architecture=architecture)
    (model, stored), reference = open_model(folder, torch.float32), load_model(folder, torch.float32)
    assert stored is not None
    expected = dict(reference.named_parameters())
    assert [name for name, _ in model.named_parameters()] == list(expected)
    assert all(parameter.is_meta for parameter in model.parameters())
    for name, parameter in expected.items():
        assert torch.equal(stored.read(name).float(), parameter)
        assert torch.equal(stored.read_rows(name, 3, 40).float(), parameter[3:40])
        assert torch.equal(read_whole(stored, name, parameter), parameter)
    for (name, buffer), (other, wanted) in zip(model.named_buffers(), reference.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(buffer, wanted)
    assert max(len(places) for places in homes(model).values()) == (2 if tied else 1)


def test_an_adapter_on_weights_not_yet_read_is_the_adapter_on_read_ones(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (model, stored), reference = open_model(folder, torch.float32), load_model(folder, torch.float32)
    with weightless(model):
        add_adapter(model, LoraSettings(rank=4), 7, "name")
    add_adapter(reference, LoraSettings(rank=4), 7, "name")
    assert stored is not None
    for (name, parameter), (other, expected) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert (name, parameter.requires_grad, parameter.is_meta) == (other, expected.requires_grad, not expected.requires_grad)
        assert torch.equal(read_whole(stored, name, parameter), expected)


@pytest.mark.parametrize(("changes", "why"), [
    ({UP: None}, rf"tensor '{UP}' is in none of its files \(model.safetensors\); the model is incomplete"),
    ({"model.norm.weight": torch.ones(65)}, r"model.safetensors: tensor 'model.norm.weight' is \(65,\), .* expects \(64,\)"),
    ({"lm_head.weight": torch.ones(400, 64)}, "'lm_head.weight' differs from 'model.embed_tokens.weight', though config.json"),
    ({"lm_head.weight": torch.ones(2, 64)}, "'lm_head.weight' differs from 'model.embed_tokens.weight', though config.json")])
def test_what_cannot_be_read_is_refused_by_the_headers(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    folder = change(make_model(tmp_path / "model"), **changes)
    with pytest.raises(UserError, match=why):
        open_model(folder, torch.float32)


@pytest.mark.parametrize("changes", [{UP: None}, {"model.norm.weight": torch.ones(65)}])
def test_a_full_load_makes_nothing_up_either(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = change(make_model(tmp_path / "model"), **changes)
    with pytest.raises(UserError, match=next(iter(changes))):
        load_model(folder)


def test_a_file_that_lacks_what_the_index_promises_is_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    place = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(place.values()):
        save_file({name: tensors[name] for name in tensors if place[name] == file and name != UP}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    with pytest.raises(UserError, match=rf"{place[UP]}: holds no tensor '{UP}', though model.safetensors.index.json says so"):
        open_model(folder, torch.float32)


def test_tied_weights_may_be_stored_twice(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    _, stored = open_model(change(folder, **{"lm_head.weight": embedding.clone()}), torch.float32)
    assert stored is not None
    assert torch.equal(stored.read("model.embed_tokens.weight"), embedding)


def test_superfluous_tensors_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = change(make_model(tmp_path / "model"), **{"value_head.weight": torch.ones(2), "extra": torch.ones(2),
                                                       "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    with caplog.at_level(logging.WARNING, logger="biomistral"):
        open_model(folder, torch.float32)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "left out, as no part of its architecture: 'extra' and 1 more tensors"]


def test_names_without_the_models_prefix_are_found(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    _, stored = open_model(folder, torch.float32)
    assert stored is not None
    assert torch.equal(stored.read(UP), tensors[UP])


def saved(folder: Path, config_class: Any) -> PreTrainedModel:
    config = config_class(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          num_key_value_heads=1, head_dim=8)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return model.eval()


def test_buffers_that_the_model_fills_itself_are_built(tmp_path: Path) -> None:
    """Gemma's embedding keeps its scale, the square root of its width, in a buffer that no file holds."""
    model = saved(tmp_path, Gemma2Config)
    found, stored = open_model(tmp_path, torch.float32)
    assert stored is not None
    for name, _ in list(found.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(found.get_submodule(owner), leaf, torch.nn.Parameter(stored.read(name).clone()))
    found.tie_weights()
    tokens = torch.arange(20)[None]
    assert torch.equal(found(tokens).logits, model(tokens).logits)


def test_experts_that_are_stored_one_by_one_are_loaded_whole(tmp_path: Path) -> None:
    model = saved(tmp_path, MixtralConfig)
    found, stored = open_model(tmp_path, torch.float32)
    assert stored is None
    for (name, parameter), (other, expected) in zip(found.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(parameter, expected)
