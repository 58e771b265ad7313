"""Integer layers at run time and models loaded from both layouts, against plain models of the same numbers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config

from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer, num_parameters
from biomistral.models.quantized import dequantise, kernels
from biomistral.models.quantized.dequantise import Scratch
from biomistral.models.quantized.dequantise_gpu import dequantise_by_operations, kernel_is_exact
from biomistral.models.quantized.kernels import kernel_for
from biomistral.models.quantized.layouts import LayoutName, config_entry, pack
from biomistral.models.quantized.linear import FEW_ROWS, IntLinear, num_quantized, same_for_any_batch
from biomistral.scoring.engine import Engine, Prefix
from int_matrices import Tensors, random_matrix, write_folder, write_model
from tiny import make_model, make_tokenizer

CPU = torch.device("cpu")
LAYOUTS: tuple[LayoutName, ...] = ("autoawq", "compressed-tensors")


def random_rows(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 5, FEW_ROWS // 2, FEW_ROWS // 2 + 1, 100])  # twice so many: a batch of two
@pytest.mark.parametrize(("outputs", "inputs", "group", "bits"), [
    (64, 64, 32, 4), (48, 192, 64, 4), (24, 128, 128, 4), (7, 64, 32, 4), (1, 32, 32, 4), (80, 16, 16, 4), (33, 96, 32, 8)])
def test_linear_equals_the_dequantised_product(rows: int, outputs: int, inputs: int, group: int, bits: int) -> None:
    matrix = random_matrix(outputs, inputs, group, bits=bits)
    bias, x = random_rows(outputs, seed=1), random_rows(2, rows, inputs)
    expected = functional.linear(x.double(), matrix.dequantized().double(), bias.double())
    exact = IntLinear(matrix, bias)(x)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-5)
    rounded = IntLinear(matrix, bias.bfloat16())(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - expected).norm() / expected.norm() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.sampled_from([8, 32]), st.sampled_from([4, 8]),
       st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 1000))
def test_weights_are_rounded_once(outputs: int, groups: int, group: int, bits: int, dtype: torch.dtype, seed: int) -> None:
    matrix = random_matrix(outputs, groups * group, group, seed, bits)
    assert torch.equal(IntLinear(matrix).weight(dtype), matrix.dequantized().to(dtype))


@pytest.mark.parametrize("looked_up", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_tables_and_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, looked_up: bool, threads: int) -> None:
    if not looked_up:
        monkeypatch.setattr(dequantise, "_looks_up", lambda: False)
    monkeypatch.setattr(dequantise, "_WEIGHTS_AT_ONCE", 1024)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for bits in (4, 8):
        matrix = random_matrix(67, 192, 64, bits=bits)
        for dtype in (torch.bfloat16, torch.float32, torch.float16):
            assert torch.equal(IntLinear(matrix).weight(dtype), matrix.dequantized().to(dtype))


@pytest.mark.parametrize(("bits", "shift"), [(8, None), (4, 0), (4, 4)])
def test_a_gpu_s_way_gives_the_same_weights(bits: int, shift: int | None) -> None:
    matrix = random_matrix(6, 96, 32, bits=bits)
    stored = matrix.levels if shift is None else matrix.levels << shift | (15 - matrix.levels) << 4 - shift
    out = torch.empty(6, 96, dtype=torch.bfloat16)
    dequantise_by_operations(stored, shift, matrix.zeros, matrix.scales, out)
    assert torch.equal(out, matrix.dequantized().bfloat16())


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for a GPU only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_s_kernel_gives_the_same_weights(dtype: torch.dtype) -> None:
    """By Triton's interpreter, which rounds to bfloat16 in another way, where there is no GPU."""
    if torch.cuda.is_available():
        assert all(kernel_is_exact(torch.device("cuda"), one) for one in (dtype, torch.bfloat16))
        return
    code = ("import torch; from biomistral.models.quantized.dequantise_gpu import kernel_is_exact; "
            f"raise SystemExit(not kernel_is_exact(torch.device('cpu'), {dtype}))")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=300)


def test_weights_of_a_matrix_larger_than_what_is_done_at_once() -> None:
    for bits in (4, 8):
        matrix = random_matrix(1201, 2048, 128, bits=bits)
        assert torch.equal(IntLinear(matrix).weight(torch.bfloat16), matrix.dequantized().bfloat16())


def kernel_works() -> bool:
    kernel = kernel_for(CPU, torch.bfloat16, 64, 32)
    return kernel is not None and kernel.unpack is not None


@pytest.mark.skipif(not kernel_works(), reason="how this processor's kernel orders its integers is not known")
@pytest.mark.parametrize("outputs", [128, 70, 1])
def test_one_copy_changes_its_form_and_keeps_its_integers(outputs: int) -> None:
    matrix = random_matrix(outputs, 128, 32)
    layer, few, many = IntLinear(matrix), random_rows(3, 128).bfloat16(), random_rows(FEW_ROWS + 1, 128).bfloat16()
    dequantised = layer(many)
    assert layer.tiled is None
    by_kernel = layer(few)
    assert layer.plain is None
    assert layer.tiled is not None
    assert torch.equal(layer.matrix().levels, matrix.levels)
    assert torch.equal(layer(many), dequantised)
    assert torch.equal(layer(few), by_kernel)
    same_for_any_batch(layer)
    assert torch.equal(layer(few), functional.linear(few, matrix.dequantized().bfloat16()))
    assert layer.tiled is None  # the plain form is back, once and for all


def test_layers_share_scratch_in_any_mode_and_keep_gradients_apart() -> None:
    scratch = Scratch()
    matrices = [random_matrix(48, 64, 32, seed) for seed in (0, 1)]
    layers = torch.nn.ModuleList(IntLinear(matrix, None, scratch) for matrix in matrices)
    with torch.inference_mode():
        layers[0](random_rows(2, 64))
    x = random_rows(2, 64)
    with torch.no_grad():
        outputs = [layer(x) for layer in layers]
    assert all(torch.allclose(out, x @ matrix.dequantized().T, atol=1e-5) for out, matrix in zip(outputs, matrices, strict=True))
    x.requires_grad_()
    (layers[0](x).sum() + layers[1](x).sum()).backward()
    assert torch.allclose(x.grad, sum(matrix.dequantized().sum(0) for matrix in matrices).expand(2, 64), atol=1e-5)


def test_without_a_way_back_both_forms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_holds", lambda *_: False)
    kernels._cpu_kernel.cache_clear()
    matrix, many = random_matrix(64, 64, 32), random_rows(FEW_ROWS + 1, 64).bfloat16()
    layer = IntLinear(matrix)
    layer(many[:1])
    kernels._cpu_kernel.cache_clear()
    assert layer.tiled is not None
    assert torch.equal(layer(many), functional.linear(many, matrix.dequantized().bfloat16()))


@pytest.mark.parametrize(("dtype", "inputs", "group"), [(torch.float32, 64, 32), (torch.bfloat16, 16, 16)])
def test_what_no_kernel_takes_is_dequantised(dtype: torch.dtype, inputs: int, group: int) -> None:
    assert kernel_for(CPU, dtype, inputs, group) is None
    layer, x = IntLinear(random_matrix(16, inputs, group)), random_rows(1, inputs).to(dtype)
    assert torch.equal(layer(x), functional.linear(x, layer.weight(dtype)))


def test_the_way_back_from_the_tensor_cores_fragments() -> None:
    levels = random_matrix(24, 256, 32).levels
    packed = torch.zeros(3, 2, 32, 4, dtype=torch.int64)
    for n in range(24):  # from the description of the kernel's form, integer by integer
        for k in range(256):
            supertile, inner = divmod(k, 128)
            word, within = divmod(inner, 32)
            nibble, pair = divmod(within, 8)
            lane = 4 * (n % 8) + pair // 2
            packed[n // 8, supertile, lane, word] |= int(levels[n, k]) << 4 * (nibble + 4 * (pair % 2))
    words = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    assert torch.equal(kernels._cuda_unpack(words), levels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loaded_model_equals_the_plain_one(tmp_path: Path, layout: LayoutName) -> None:
    quantized, plain = write_model(make_model(tmp_path / "base"), tmp_path, layout)
    ids = load_tokenizer(quantized)("What is the description of the medical code E11.9?", return_tensors="pt").input_ids
    model, reference = load_model(quantized), AutoModelForCausalLM.from_pretrained(plain)
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, reference(ids).logits, rtol=1e-5, atol=1e-6)
        short = load_model(quantized, torch.bfloat16)
        assert short.dtype == torch.bfloat16
        expected = reference(ids).logits
        assert (short(ids).logits - expected).norm() / expected.norm() < 0.03
        assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False),
                           reference.generate(ids, max_new_tokens=5, do_sample=False))
    assert num_parameters(model) == num_parameters(reference)
    assert num_quantized(model) == sum(p.numel() for n, p in reference.named_parameters() if "_proj" in n)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (8, False), (8, True)])
def test_loaded_model_in_other_forms_equals_the_plain_one(tmp_path: Path, bits: int, symmetric: bool) -> None:
    quantized, plain = write_model(make_model(tmp_path / "base"), tmp_path, "compressed-tensors", bits=bits, symmetric=symmetric)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(plain)(ids).logits
        assert torch.allclose(load_model(quantized)(ids).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_library_loads_the_same_model(tmp_path: Path, symmetric: bool) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    # left in integers it cannot take packed zero points: it makes room for unpacked ones (compressed-tensors 0.20)
    way = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if not symmetric else {}
    quantized, _ = write_model(make_model(tmp_path / "base", dtype="bfloat16"), tmp_path, "compressed-tensors",
                               symmetric=symmetric, scales=torch.bfloat16)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32, **way)(ids).logits
        ours = load_model(quantized, torch.float32)(ids).logits
    assert (ours - theirs).norm() / theirs.norm() < 0.01


def test_biases_stay_with_their_layers(tmp_path: Path) -> None:
    config = Qwen2Config(vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, tie_word_embeddings=True)
    model, base = AutoModelForCausalLM.from_config(config), tmp_path / "base"
    make_tokenizer(base)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for name in [name for name in tensors if name.endswith("proj.bias")]:
        tensors[name].normal_(generator=torch.Generator().manual_seed(0))
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        matrix = random_matrix(*tensors.pop(name).shape, 32)
        model.get_parameter(name).data.copy_(matrix.dequantized())
        tensors |= {f"{name.removesuffix('.weight')}.{suffix}": value for suffix, value in pack("autoawq", matrix, False).items()}
    model.config.save_pretrained(base)
    config_file = base / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "architectures": ["Qwen2ForCausalLM"]}))
    write_folder(base, tmp_path / "awq", tensors, config_entry("autoawq", 32, False, 4))
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert torch.allclose(load_model(tmp_path / "awq")(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


def test_an_engine_answers_with_the_bits_of_the_16_bit_twin(tmp_path: Path) -> None:
    quantized, plain = write_model(make_model(tmp_path / "base", dtype="bfloat16"), tmp_path)
    rows = [tuple(range(3 + number, 5 + number + number % 3)) for number in range(2 * FEW_ROWS)]
    model = load_model(quantized, torch.bfloat16)
    model(torch.tensor([rows[0]]))  # by the kernel: an engine finds a model that has been used
    ours, theirs = Engine(model), Engine(load_model(plain, torch.bfloat16))
    for batch in (rows, rows[:5], rows[7:8]):
        assert torch.equal(ours.last_logits(Prefix(0, None), batch)[0], theirs.last_logits(Prefix(0, None), batch)[0])


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(("layout", "words", "scales"), [("autoawq", "qweight", "scales"),
                                                         ("compressed-tensors", "weight_packed", "weight_scale")])
def test_damaged_folders_are_refused_by_tensor(tmp_path: Path, layout: LayoutName, words: str, scales: str) -> None:
    quantized, _ = write_model(make_model(tmp_path / "base"), tmp_path, layout)
    path, name = quantized / "model.safetensors", "model.layers.1.mlp.up_proj"
    tensors, small = load_file(path), pack(layout, random_matrix(64, 64, 32), False)
    for damaged, message in (
            (without(tensors, f"{name}.{scales}"), f"'{name}.{scales}' is missing"),
            (without(tensors, "model.norm.weight"), "'model.norm.weight' is missing"),
            ({**tensors, f"{name}.{scales}": tensors[f"{name}.{scales}"][:7, :7].contiguous()}, f"'{name}': "),
            ({**tensors, **{f"{name}.{suffix}": tensor for suffix, tensor in small.items()}}, r"holds a \(64, 64\) matrix"),
            ({**tensors, f"model.layers.9.mlp.up_proj.{words}": tensors[f"{name}.{words}"].clone()}, "is missing"),
            ({"model.norm.weight": tensors["model.norm.weight"]}, f"no tensor ends in '.{words}'"),
            ({**tensors, "model.surprise": torch.zeros(1)}, "'model.surprise' belongs to no part")):
        save_file(damaged, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            load_model(quantized)


def test_other_layouts_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    quantized, _ = write_model(make_model(tmp_path / "base"), tmp_path)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"]["version"] = "marlin"
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json: quantization_config.version is 'marlin'"):
        load_model(quantized)
