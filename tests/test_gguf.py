"""gguf:TYPE through the quantize stage: the same logits whoever reads the file, what blocks stand for, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from biomistral.artifact import Artifact, verify
from biomistral.errors import UserError
from biomistral.models.gguf import load_gguf
from biomistral.models.gguf_file import GGUFFile
from biomistral.models.load import load_model, num_parameters
from biomistral.quantization.gguf import container, plan
from biomistral.quantization.settings import QuantizeSettings
from biomistral.run import execute
from gguf_models import DECODERS, VOCABULARY, make_decoder

IDS = torch.arange(3, 303).reshape(2, 150)  # longer than windows of 16 and than original contexts of 64 and 128
BLOCKS = ("Q8_0", "Q5_0", "Q4_1", "Q4_0")
READ_BY_TRANSFORMERS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
                        "gemma3": "gemma3_text", "phi3": "phi3"}
"""Pico models that its own reader reads rightly, and what it takes them for: it leaves out scaled rotary embeddings and Llama's
biases, and knows no Gemma 1."""


def run(model: Path, out: Path, kind: str = "F32", **chosen: Any) -> Artifact:
    return execute(QuantizeSettings(model=str(model), method=f"gguf:{kind}", **chosen), out)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def alone(made: Artifact, folder: Path) -> Path:
    """The file without the folder it was made in."""
    folder.mkdir(parents=True, exist_ok=True)
    (file,) = made.path.glob("*.gguf")
    return Path(shutil.copy(file, folder))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in ("manifest.json", ".lock")}


def rounded(model: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its matrices rounded to a type, everything else float32."""
    plain = load_model(model, torch.float32)
    for parameter in plain.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.to(dtype).float()
    return plain


@pytest.mark.parametrize("name", DECODERS)
def test_the_same_logits_from_the_folder_and_from_the_file_alone(tmp_path: Path, name: str) -> None:
    model = make_decoder(tmp_path / "model", name)
    for kind, dtype in (("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)):
        made = run(model, tmp_path / kind, kind)
        expected = logits(rounded(model, dtype))
        assert torch.equal(logits(load_model(made.path, torch.float32)), expected), kind
    assert verify(made) == []
    found, tokenizer, _ = load_gguf(alone(made, tmp_path / "alone"), torch.float32)
    assert torch.equal(logits(found), expected)
    assert len(tokenizer) == VOCABULARY
    assert num_parameters(found) == made.manifest["counts"]["parameters"]


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_own_reader_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    model = make_decoder(tmp_path / "model", name)
    made = run(model, tmp_path / "made")
    found = AutoModelForCausalLM.from_pretrained(made.path, gguf_file="model-F32.gguf", dtype=torch.float32)
    assert found.config.model_type == READ_BY_TRANSFORMERS[name]
    assert torch.equal(logits(found.eval()), logits(load_model(model, torch.float32)))


@pytest.mark.parametrize("name", ["llama wide", "gemma3", "phi3"])
def test_bfloat16_models_keep_every_bit_in_bf16(tmp_path: Path, name: str) -> None:
    model = make_decoder(tmp_path / "model", name, "bfloat16")
    made = run(model, tmp_path / "made", "BF16")
    original, found = load_model(model), load_model(made.path)
    assert found.dtype == torch.bfloat16
    for (parameter, expected), loaded in zip(original.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(loaded, expected) or parameter.endswith("norm.weight"), parameter
        assert torch.allclose(loaded.float(), expected.float(), atol=1e-6), parameter  # Gemma's: 1 + w, and 1 less again


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_blocks_stand_for_what_the_package_s_own_stand_for(tmp_path: Path, name: str, kind: str) -> None:
    model = make_decoder(tmp_path / "model", name)
    made = run(model, tmp_path / "made", kind)
    number = gguf.GGMLQuantizationType[kind]
    loaded = load_model(made.path, torch.float32)
    plain = load_model(model, torch.float32)
    for (parameter, original), found in zip(plain.named_parameters(), loaded.parameters(), strict=True):
        if original.dim() > 1:
            expected = gguf.quants.dequantize(gguf.quants.quantize(original.detach().numpy(), number), number)
            assert torch.equal(found, torch.from_numpy(expected)), parameter
    reader = gguf.GGUFReader(made.path / f"model-{kind}.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.1.ffn_down.weight"] == kind
    assert types["blk.1.attn_norm.weight"] == "F32"
    assert gguf.LlamaFileType(int(reader.fields["general.file_type"].parts[-1][0])).name == f"MOSTLY_{kind}"
    size = made.manifest["facts"]["size"]
    assert size["bits_per_weight"] == {"Q8_0": 8.5, "Q5_0": 5.5, "Q4_1": 5.0, "Q4_0": 4.5}[kind]
    assert size["bytes"] == (made.path / f"model-{kind}.gguf").stat().st_size


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_written_once(tmp_path: Path, tied: bool) -> None:
    model = make_decoder(tmp_path / "model", "llama", tie_word_embeddings=tied)
    made = run(model, tmp_path / "made", "Q8_0")
    file = alone(made, tmp_path / "alone")
    assert ("output.weight" in GGUFFile(file).tensors) != tied
    for loaded in (load_model(made.path), load_gguf(file, torch.float32)[0]):
        assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied


def test_rows_that_blocks_do_not_divide_are_stored_in_16_bits(tmp_path: Path) -> None:
    model = make_decoder(tmp_path / "model", "llama", intermediate_size=80)
    made = run(model, tmp_path / "made", "Q4_0")
    facts = made.manifest["facts"]["gguf"]
    assert facts["not_in_blocks"] == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
    assert facts["tensors"]["F16"] == 2
    half = load_model(model, torch.float32).model.layers[1].mlp.down_proj.weight.half().float()
    assert torch.equal(load_model(made.path, torch.float32).model.layers[1].mlp.down_proj.weight, half)


def test_the_same_model_gives_the_same_bytes_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_decoder(tmp_path / "model", "llama 3 rope")
    first = run(model, tmp_path / "first", "Q4_1")
    second = run(make_decoder(tmp_path / "other name", "llama 3 rope"), tmp_path / "deeper" / "second", "Q4_1")
    assert files_of(first.path) == files_of(second.path)
    monkeypatch.setattr(container, "write_gguf", lambda *_: pytest.fail("made again"))
    assert run(model, tmp_path / "first", "Q4_1").manifest == first.manifest


def test_cut_off_work_begins_anew_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_decoder(tmp_path / "model", "llama")
    whole = run(model, tmp_path / "whole", "Q8_0")
    encoded: list[int] = []

    def cut(*given: Any) -> torch.Tensor:
        encoded.append(1)
        if len(encoded) == 5:
            raise KeyboardInterrupt
        return container.encode(*given)

    with monkeypatch.context() as patched:
        patched.setattr(container, "_encoded", lambda entry, _: cut(entry.read(), entry.storage))
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "cut", "Q8_0")
    assert not (tmp_path / "cut").exists()
    (partial,) = tmp_path.glob(".cut.*.partial")
    assert [path.name for path in partial.iterdir()] == [".lock"]
    (partial / ".model-Q8_0.gguf.tmp").write_bytes(b"GGUF of a process that was killed")
    assert files_of(run(model, tmp_path / "cut", "Q8_0").path) == files_of(whole.path)


def changed(model: Path, out: Path, **entries: Any) -> Path:
    """The model with other entries in its config."""
    shutil.copytree(model, out)
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return out


def with_number(model: Path, out: Path, number: float) -> Path:
    shutil.copytree(model, out)
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][7, 5] = number
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def refused(model: Path, out: Path, message: str, kind: str = "F16") -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(model, out, kind)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}.*"))


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
MSCALE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "mscale": 0.7, "original_max_position_embeddings": 256}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic rope": ("llama", {"rope_parameters": DYNAMIC}, "rotary embeddings by 'dynamic', for which GGUF has no words"),
    "yarn": ("llama", {"rope_parameters": MSCALE}, r"YaRN with 'mscale' 0\.7, which llama\.cpp does not compute with"),
    "activation": ("llama", {"hidden_act": "gelu"}, "activation is gelu, llama.cpp computes architecture 'llama' with silu"),
    "layers": ("gemma2", {"layer_types": ["full_attention", "full_attention"]}, "its layers see a window or everything in"),
    "queries": ("gemma3", {"query_pre_attn_scalar": 100}, r"queries by 1/sqrt\(100\), llama\.cpp by 1/sqrt\(256\)"),
    "both ways": ("gemma3", {"use_bidirectional_attention": True}, "attends in both directions"),
    "no caps": ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping is None, final_logit_softcapping 30.0"),
    "heads": ("phi3", {"head_dim": 32}, "its heads are 32 wide, llama.cpp computes architecture 'phi3' with 16"),
    "quantised": ("llama", {"quantization_config": {"quant_method": "awq"}}, r"already quantised \(awq\); give the 16-bit model"),
    "another shape": ("llama", {"intermediate_size": 64}, "mlp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_llama_cpp_would_compute_otherwise_are_refused(tmp_path: Path, case: str) -> None:
    name, entries, message = REFUSED[case]
    model = make_decoder(tmp_path / "model", name)
    refused(changed(model, tmp_path / "changed", **entries), tmp_path / "out", message)
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = make_decoder(tmp_path / "model", "llama"), tmp_path / "out"
    other = Path(shutil.copytree(model, tmp_path / "gpt2"))
    AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=400)).save_pretrained(other)
    refused(other, out, r"architecture 'gpt2' has no GGUF layout here \(known: llama, mistral, .*\); choose another --method")
    mute = Path(shutil.copytree(model, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*")))
    refused(mute, out, r"mute: a model without a tokenizer")
    less = Path(shutil.copytree(model, tmp_path / "less"))
    tensors = load_file(less / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, less / "model.safetensors", metadata={"format": "pt"})
    refused(less, out, r"model\.layers\.0\.mlp\.up_proj\.weight'")
    made = run(model, tmp_path / "made", "Q8_0").path
    refused(made, out, r"only a GGUF file \(model-Q8_0\.gguf\), made of a 16-bit model: give that")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    refused(model, out, r"the file needs 0\.02 GB, 0\.00 GB are free")
    assert not out.exists()


def test_numbers_that_cannot_be_stored_name_their_tensor(tmp_path: Path) -> None:
    model = make_decoder(tmp_path / "model", "llama")
    where = r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight' holds "
    for kind in ("F32", "Q4_0"):
        refused(with_number(model, tmp_path / f"nan {kind}", float("nan")), tmp_path / "out", f"{where}NaN", kind)
    huge = with_number(model, tmp_path / "huge", 70000.0)
    refused(huge, tmp_path / "out", f"{where}numbers over 65504, for which float16 has no place; choose gguf:BF16")
    assert run(huge, tmp_path / "out", "BF16").path.is_dir()


def rewritten(model: Path, path: Path, change: Any) -> Path:
    """A file alone of the model, its planned fields and tensors changed."""
    planned = plan.make_plan(model, "F32", model, None)
    change(planned.fields, planned.entries)
    container.write_gguf(path, planned.architecture, planned.fields, planned.entries, path)
    return path


ODD: dict[str, tuple[str, Any, str]] = {
    "a field is missing": ("llama", lambda f, e: f.pop("llama.block_count"), r"lacks the field 'llama\.block_count'"),
    "a tensor is missing": ("llama", lambda f, e: e.pop(4), "holds no tensor 'blk.0.attn_output.weight'"),
    "no embeddings": ("llama", lambda f, e: e.pop(0), "holds no tensor 'token_embd.weight'"),
    "one layer too many": ("llama", lambda f, e: f.update({"llama.block_count": 1}),
                           r"tensor 'blk\.1\.[a-z_]+\.weight' has no place in architecture 'llama'"),
    "another shape": ("qwen3", lambda f, e: f.update({"qwen3.feed_forward_length": 64}),
                      r"is \(96, 64\), the architecture expects \(64, 64\)"),
    "heads of two widths": ("llama", lambda f, e: f.update({"llama.attention.value_length": 8}), "keys and values differ"),
    "heads by layer": ("llama", lambda f, e: f.update({"llama.attention.head_count": [4, 4], "llama.attention.key_length": 16}),
                       r"attention\.head_count differs by layer"),
    "more of YaRN": ("llama yarn", lambda f, e: f.update({"llama.rope.scaling.yarn_log_multiplier": 0.1}),
                     "rotary embeddings by 'yarn' with yarn_log_multiplier"),
    "experts": ("llama", lambda f, e: f.update({"llama.expert_count": 8}), "a mixture of 8 experts"),
}


@pytest.mark.parametrize("case", ODD)
def test_files_that_cannot_be_read_as_they_are_meant(tmp_path: Path, case: str) -> None:
    name, change, message = ODD[case]
    file = rewritten(make_decoder(tmp_path / "model", name), tmp_path / "odd.gguf", change)
    with pytest.raises(UserError, match=message) as caught:
        load_gguf(file, torch.float32)
    assert "\n" not in str(caught.value)


def test_rotary_factors_that_are_not_llama_3_s(tmp_path: Path) -> None:
    """Any factors are computed with, as LongRoPE's; with all of them 1 the model is the one without."""
    plain, scaled = (make_decoder(tmp_path / name, name) for name in ("llama", "llama 3 rope"))

    def ones(fields: dict[str, Any], entries: list[Any]) -> None:
        (old,) = (entry for entry in entries if entry.name == "rope_freqs.weight")
        entries[entries.index(old)] = container.Entry(old.source, old.name, old.shape, old.storage, lambda: torch.ones(8))
        fields["llama.rope.freq_base"] = 10000.0

    found, _, _ = load_gguf(rewritten(scaled, tmp_path / "ones.gguf", ones), torch.float32)
    assert found.config.rope_parameters["rope_type"] == "longrope"
    assert torch.equal(logits(found), logits(load_model(plain)))


def test_a_folder_and_a_file_that_do_not_belong_together(tmp_path: Path) -> None:
    made = run(make_decoder(tmp_path / "model", "llama"), tmp_path / "made").path
    entry = {"quantization_config": {"quant_method": "gguf", "file": "../model.gguf"}}
    for config, message in ((entry, r"quantization_config\.file is '\.\./model\.gguf', which is no file"),
                            ({"hidden_size": 128}, r"is \(400, 64\), the architecture expects \(400, 128\)"),
                            ({"num_hidden_layers": 3}, "holds no tensor 'blk.2")):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        with pytest.raises(UserError, match=message):
            load_model(changed(made, tmp_path / "changed", **config))
