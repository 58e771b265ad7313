"""Models that do not fit together are refused before anything is written, with the file, the tensor or the token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from biomistral.errors import UserError
from biomistral.merging.plan import Plan, plan_merge
from merge_arrays import TIES, make_pair
from tiny import make_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pair(tmp_path_factory.mktemp("models"))


def plan(folder: Path, text: str, models: dict[str, Path]) -> Plan:
    path = folder / "merge.yaml"
    path.write_text(text)
    return plan_merge(path, models)


def change(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, torch.Tensor | None] | None = None) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    weights = load_file(folder / "model.safetensors") | (tensors or {})
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, folder / "model.safetensors",
              metadata={"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"
MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"tensors": {NORM: torch.ones(8, dtype=torch.bfloat16)}}, rf"{NORM} has shape \[8\], in 'A' it is \[16\]"),
    ({"tensors": {NORM: None}}, r"layer 1 of 'B' and layer 1 of 'A' do not have the same tensors: input_layernorm"),
    ({"tensors": {"model.norm.weight": None}}, r"has no tensor model.norm.weight, which 'A' has"),
    ({"tensors": {"extra.weight": torch.ones(2)}}, r"has a tensor extra.weight, which 'A' has not"),
    ({"tensors": {NORM: torch.ones(16, dtype=torch.int8)}}, rf"tensor {NORM} is I8: this model looks quantised"),
    ({"tensors": {"model.embed_tokens.weight": torch.zeros(402, 16)}}, r"their vocabularies differ in size"),
    ({"tensors": {"lm_head.weight": torch.zeros(400, 16, dtype=torch.bfloat16)}}, r"lm_head.weight differs from"),
    ({"config": {"model_type": "qwen2"}}, r"model_type is 'qwen2', in 'A' it is 'llama'"),
    ({"config": {"num_attention_heads": 2}}, r"num_attention_heads is 2, in 'A' it is 4"),
    ({"config": {"num_hidden_layers": 5}}, r"config.json says 5 layers, but the weights hold no tensor of model.layers.4"),
    ({"config": {"tie_word_embeddings": False}}, r"shares one matrix between embedding and head"),
]


@pytest.mark.parametrize(("edit", "message"), MISFITS)
def test_refused_models(tmp_path: Path, models: dict[str, Path], edit: dict[str, Any], message: str) -> None:
    odd = make_model(tmp_path / "B", 1, layers=4, hidden=16, dtype="bfloat16")
    change(odd, **edit)
    with pytest.raises(UserError, match=message):
        plan(tmp_path, TIES, {"A": models["A"], "B": odd})


def test_a_head_stored_twice_is_written_once(tmp_path: Path, models: dict[str, Path]) -> None:
    twice = make_model(tmp_path / "B", 1, layers=4, hidden=16, dtype="bfloat16")
    change(twice, tensors={"lm_head.weight": load_file(twice / "model.safetensors")["model.embed_tokens.weight"].clone()})
    made = plan(tmp_path, TIES, {"A": models["A"], "B": twice})
    assert "lm_head.weight" not in {tensor.name for tensor in made.tensors}


def test_a_vocabulary_in_another_order_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    odd = make_model(tmp_path / "B", 1, layers=4, hidden=16, dtype="bfloat16")
    path = odd / "tokenizer.json"
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    first, second = list(vocab)[20:22]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"token \d+ is .*, in 'A' it is .*; to bring tokens together by their text, write"):
        plan(tmp_path, TIES, {"A": models["A"], "B": odd})


def test_differences_that_do_not_forbid_are_noted(tmp_path: Path, models: dict[str, Path]) -> None:
    other = make_model(tmp_path / "B", 1, layers=4, hidden=16, dtype="bfloat16")
    change(other, config={"sliding_window": 64})
    notes = plan(tmp_path, TIES, {"A": models["A"], "B": other}).notes
    assert notes == ["sliding_window is 64 in 'B' and None in 'A': the result takes None"]


def test_a_truncated_shard_is_refused_with_its_tensor(tmp_path: Path, models: dict[str, Path]) -> None:
    cut = make_model(tmp_path / "B", 1, layers=4, hidden=16, dtype="bfloat16")
    weights = cut / "model.safetensors"
    whole = weights.read_bytes()
    for end, message in ((len(whole) - 3, r"model.safetensors: truncated: tensor model.norm.weight ends at byte"),
                         (100, "do not hold its header"), (0, "do not hold its header")):
        weights.write_bytes(whole[:end])
        with pytest.raises(UserError, match=message):
            plan(tmp_path, TIES, {"A": models["A"], "B": cut})
    weights.write_bytes(whole[:8] + b"x" * 40 + whole[48:])
    with pytest.raises(UserError, match="corrupt: its header cannot be read"):
        plan(tmp_path, TIES, {"A": models["A"], "B": cut})
