"""Int4Linear and the AWQ layout against an unpacker written from the layout's description, and against plain models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from biomistral.errors import UserError
from biomistral.models.awq_format import Int4, config_entry, pack, unpack
from biomistral.models.int4 import KERNEL_ROWS, Int4Linear, num_quantized
from biomistral.models.load import load_model, load_tokenizer, num_parameters
from tiny import make_model


def random_matrix(outputs: int, inputs: int, group: int, seed: int = 0) -> Int4:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 16, (outputs, inputs), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(0, 16, (outputs, inputs // group), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(outputs, inputs // group, generator=generator) * 0.02 + 0.001).to(torch.float16)
    return Int4(levels, zeros, scales)


def naive_weight(tensors: dict[str, torch.Tensor], group: int) -> np.ndarray:
    """W (N, K) from the layout's words, nibble by nibble, in float64."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    qweight, qzeros = (tensors[name].numpy().view(np.uint32) for name in ("qweight", "qzeros"))
    scales = tensors["scales"].numpy().astype(np.float64)
    weight = np.zeros((scales.shape[1], qweight.shape[0]))
    for k in range(qweight.shape[0]):
        for word in range(qweight.shape[1]):
            for nibble in range(8):
                n = 8 * word + order[nibble]
                q = int(qweight[k, word]) >> 4 * nibble & 15
                z = int(qzeros[k // group, word]) >> 4 * nibble & 15
                weight[n, k] = (q - z) * scales[k // group, n]
    return weight


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([4, 32]), st.integers(0, 1000))
def test_layout_restores_every_weight(words: int, groups: int, group: int, seed: int) -> None:
    matrix = random_matrix(8 * words, groups * group, group, seed)
    tensors = pack(matrix)
    assert tensors["qweight"].shape == (groups * group, words)
    assert tensors["qzeros"].shape == (groups, words)
    assert tensors["scales"].dtype == torch.float16
    assert np.array_equal(naive_weight(tensors, group), matrix.dequantized().numpy().astype(np.float64))
    back = unpack(tensors)
    assert torch.equal(back.levels, matrix.levels)
    assert torch.equal(back.zeros, matrix.zeros)
    assert torch.equal(back.scales, matrix.scales)


def test_layout_of_one_word_by_hand() -> None:
    levels = torch.arange(8, dtype=torch.uint8)[:, None]  # column n holds n
    packed = pack(Int4(levels, torch.zeros(8, 1, dtype=torch.uint8), torch.ones(8, 1)))
    assert packed["qweight"].item() & 0xFFFFFFFF == 0x75316420


@pytest.mark.parametrize("rows", [1, 5, KERNEL_ROWS, KERNEL_ROWS + 1, 200])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(64, 64, 32), (48, 192, 64), (24, 128, 128), (80, 16, 16)])
def test_linear_equals_the_dequantised_product(rows: int, outputs: int, inputs: int, group: int) -> None:
    matrix = random_matrix(outputs, inputs, group)
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, rows, inputs, generator=torch.Generator().manual_seed(2))
    expected = functional.linear(x.double(), matrix.dequantized().double(), bias.double())
    exact = Int4Linear(matrix, bias)(x)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-5)
    rounded = Int4Linear(matrix, bias.bfloat16(), kernel=True)(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - expected).norm() / expected.norm() < 0.01


def test_kernel_is_used_where_it_can_be() -> None:
    assert Int4Linear(random_matrix(64, 64, 32), kernel=True).kernel is not None
    assert Int4Linear(random_matrix(24, 64, 32), kernel=True).kernel is None  # 24 outputs: no multiple of 16
    assert Int4Linear(random_matrix(64, 16, 16), kernel=True).kernel is None  # groups of 16


def write_awq(source: Path, out: Path, group: int = 32, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """A model folder in AWQ's layout with random 4-bit weights, and the plain model that it stands for."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for number, name in enumerate(sorted(name for name in tensors if "_proj.weight" in name)):
        matrix = random_matrix(*tensors[name].shape, group, number)
        model.get_parameter(name).data.copy_(matrix.dequantized() - 0)
        del tensors[name]
        tensors |= {f"{name.removesuffix('.weight')}.{suffix}": tensor for suffix, tensor in pack(matrix).items()}
    plain, awq = out / "plain", out / "awq"
    model.save_pretrained(plain)
    awq.mkdir()
    save_file(tensors, awq / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (awq / "config.json").write_text(json.dumps({**config, "quantization_config": config_entry(group)}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (awq / name).write_bytes((source / name).read_bytes())
    return awq, plain


def test_loaded_model_equals_the_plain_one(tmp_path: Path) -> None:
    awq, plain = write_awq(make_model(tmp_path / "base"), tmp_path)
    ids = load_tokenizer(awq)("What is the description of the medical code E11.9?", return_tensors="pt").input_ids
    model, reference = load_model(awq), AutoModelForCausalLM.from_pretrained(plain)
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, reference(ids).logits, rtol=1e-5, atol=1e-6)
        short = load_model(awq, torch.bfloat16)
        assert short.dtype == torch.bfloat16
        expected = reference(ids).logits
        assert (short(ids).logits - expected).norm() / expected.norm() < 0.03
        assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False),
                           reference.generate(ids, max_new_tokens=5, do_sample=False))
    assert num_parameters(model) == num_parameters(reference)
    assert num_quantized(model) == sum(p.numel() for n, p in reference.named_parameters() if "_proj" in n)


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_damaged_folders_are_refused_by_tensor(tmp_path: Path) -> None:
    awq, _ = write_awq(make_model(tmp_path / "base"), tmp_path)
    path, name = awq / "model.safetensors", "model.layers.1.mlp.up_proj"
    tensors = load_file(path)
    for damaged, message in (
            (without(tensors, f"{name}.qzeros"), f"'{name}.qzeros' is missing"),
            (without(tensors, "model.norm.weight"), "'model.norm.weight' is missing"),
            ({**tensors, f"{name}.scales": tensors[f"{name}.scales"][:, :8].contiguous()}, f"'{name}': qweight"),
            ({**tensors, "model.layers.9.mlp.up_proj.qweight": tensors[f"{name}.qweight"].clone()}, "is missing"),
            ({**tensors, "model.surprise": torch.zeros(1)}, "'model.surprise' belongs to no part")):
        save_file(damaged, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            load_model(awq)


@pytest.mark.parametrize(("key", "value"), [("version", "gemv"), ("bits", 8), ("zero_point", False)])
def test_other_layouts_are_refused(tmp_path: Path, key: str, value: object) -> None:
    awq, _ = write_awq(make_model(tmp_path / "base"), tmp_path)
    config = json.loads((awq / "config.json").read_text())
    config["quantization_config"][key] = value
    (awq / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=key):
        load_model(awq)
