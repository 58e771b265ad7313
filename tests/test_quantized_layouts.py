"""The layouts of integer layers, to the bit: against unpackers written from their descriptions, and compressed-tensors itself."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.errors import UserError
from biomistral.models.quantized import awq, pack_quantized
from biomistral.models.quantized.layouts import LayoutName, check_writable, config_entry, layout_of, pack
from biomistral.models.quantized.matrix import IntMatrix
from int_matrices import naive_packed_weight, naive_weight, random_matrix


def same(one: IntMatrix, other: IntMatrix) -> bool:
    return one.bits == other.bits and all(torch.equal(getattr(one, name), getattr(other, name))
                                          for name in ("levels", "zeros", "scales"))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([4, 32]), st.integers(0, 1000))
def test_gemm_restores_every_weight(words: int, groups: int, group: int, seed: int) -> None:
    matrix = random_matrix(8 * words, groups * group, group, seed)
    tensors = awq.pack(matrix)
    assert tensors["qweight"].shape == (groups * group, words)
    assert tensors["qzeros"].shape == (groups, words)
    assert tensors["scales"].dtype == torch.float16
    assert np.array_equal(naive_weight(tensors, group), matrix.dequantized().numpy().astype(np.float64))
    assert same(awq.unpack(tensors), matrix)


def test_gemm_of_one_word_by_hand() -> None:
    levels = torch.arange(8, dtype=torch.uint8)[:, None]  # column n holds n
    packed = awq.pack(IntMatrix(levels, torch.zeros(8, 1, dtype=torch.uint8), torch.ones(8, 1)))
    assert packed["qweight"].item() & 0xFFFFFFFF == 0x75316420


def naive_gemv(matrix: IntMatrix) -> dict[str, torch.Tensor]:
    """AutoAWQ's gemv tensors from the layout's description: natural order along the inputs, rows of zeros rounded up."""
    outputs, groups = matrix.zeros.shape
    multiple = {128: 1, 64: 2, 32: 4}[matrix.group_size]
    width = math.ceil(math.ceil(groups / 8) / multiple) * multiple
    zeros, scales = np.zeros((outputs, 8 * width), np.uint32), np.zeros((outputs, 8 * width), np.float16)
    zeros[:, :groups], scales[:, :groups] = matrix.zeros.numpy(), matrix.scales.numpy()

    def words(integers: np.ndarray) -> torch.Tensor:
        grouped = integers.astype(np.uint32).reshape(outputs, -1, 8)
        return torch.from_numpy(sum(grouped[..., i] << np.uint32(4 * i) for i in range(8)).view(np.int32))

    return {"qweight": words(matrix.levels.numpy()), "qzeros": words(zeros), "scales": torch.from_numpy(scales)}


@pytest.mark.parametrize(("inputs", "group"), [(128, 128), (192, 64), (2304, 128), (96, 32), (1024, 32), (1088, 64)])
def test_gemv_is_read(inputs: int, group: int) -> None:
    matrix = random_matrix(16, inputs, group)
    assert same(awq.unpack_gemv(naive_gemv(matrix)), matrix)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 19), st.integers(1, 3), st.sampled_from([5, 12, 32]), st.sampled_from([4, 8]), st.booleans(),
       st.integers(0, 1000))
def test_pack_quantized_restores_every_weight(outputs: int, groups: int, group: int, bits: int, symmetric: bool,
                                              seed: int) -> None:
    matrix = random_matrix(outputs, groups * group, group, seed, bits, symmetric)
    tensors = pack_quantized.pack(matrix, symmetric)
    assert tensors["weight_packed"].shape == (outputs, -(-groups * group * bits // 32))
    assert ("weight_zero_point" in tensors) is not symmetric
    if not symmetric:
        assert tensors["weight_zero_point"].shape == (-(-outputs * bits // 32), groups)
    assert np.array_equal(naive_packed_weight(tensors, bits), matrix.dequantized().numpy().astype(np.float64))
    assert same(pack_quantized.unpack(tensors), matrix)


def test_pack_quantized_of_one_word_by_hand() -> None:
    levels = torch.arange(8, dtype=torch.uint8)[None]  # input k holds k
    packed = pack_quantized.pack(IntMatrix(levels, torch.full((1, 1), 8, dtype=torch.uint8), torch.ones(1, 1)), True)
    assert packed["weight_packed"].item() & 0xFFFFFFFF == 0x76543210


def test_zero_points_as_older_versions_wrote_them() -> None:
    matrix = random_matrix(8, 32, 16)
    tensors = pack_quantized.pack(matrix, False) | {"weight_zero_point": (matrix.zeros.to(torch.int16) - 8).to(torch.int8)}
    assert same(pack_quantized.unpack(tensors), matrix)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_library_itself_reads_and_writes_the_same_bits(bits: int, symmetric: bool) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    matrix = random_matrix(24, 96, 32, 1, bits, symmetric)
    tensors, middle = pack_quantized.pack(matrix, symmetric), 1 << bits - 1
    signed = (matrix.levels.to(torch.int16) - middle).to(torch.int8)
    assert torch.equal(helpers.pack_to_int32(signed, bits), tensors["weight_packed"])
    assert torch.equal(helpers.unpack_from_int32(tensors["weight_packed"], bits, torch.Size((24, 96))), signed)
    if not symmetric:
        zeros = (matrix.zeros.to(torch.int16) - middle).to(torch.int8)
        assert torch.equal(helpers.pack_to_int32(zeros, bits, packed_dim=0), tensors["weight_zero_point"])


@pytest.mark.parametrize(("layout", "name"), [("autoawq", "qzeros"), ("autoawq", "scales"), ("autoawq", "qweight"),
                                              ("compressed-tensors", "weight_packed"), ("compressed-tensors", "weight_scale"),
                                              ("compressed-tensors", "weight_zero_point")])
def test_tensors_that_do_not_fit_are_refused(layout: LayoutName, name: str) -> None:
    tensors = pack(layout, random_matrix(32, 64, 32), False)
    unpack = layout_of(Path(), config_entry(layout, 32, False, 4)).unpack
    for damaged in (tensors[name][1:], tensors[name][:, :1].double()):
        with pytest.raises(ValueError, match="do not fit one another"):
            unpack(tensors | {name: damaged})


def entry(layout: LayoutName, **changes: object) -> dict[str, Any]:
    return config_entry(layout, 32, False, 4) | changes


def group(**changes: object) -> dict[str, Any]:
    own = config_entry("compressed-tensors", 32, False, 4)["config_groups"]["group_0"]
    return {"group_0": {**own, "weights": {**own["weights"], **changes}}}


@pytest.mark.parametrize(("given", "message"), [
    (entry("autoawq", version="gemv_fast"), "version is 'gemv_fast'"),
    (entry("autoawq", version="gemv", group_size=256), "group_size is 256"),
    (entry("autoawq", bits=8), "bits is 8"),
    (entry("autoawq", zero_point=False), "zero_point is False"),
    (entry("compressed-tensors", format="float-quantized"), "format is 'float-quantized'"),
    (entry("compressed-tensors", kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
    (entry("compressed-tensors", config_groups=group(num_bits=3)), "config_groups.group_0.weights is 'int3'"),
    (entry("compressed-tensors", config_groups=group(type="float")), "config_groups.group_0.weights is 'float4'"),
    (entry("compressed-tensors", config_groups=group(actorder="group")), "actorder is 'group'"),
    (entry("compressed-tensors", config_groups={"a": {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8}}}),
     "config_groups.a.input_activations"),
])
def test_what_cannot_be_read_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout_of(Path("model"), given)


def test_what_a_layout_cannot_hold_is_refused_before() -> None:
    check_writable("autoawq", "q_proj", 64, 4)
    check_writable("compressed-tensors", "q_proj", 63, 8)
    for layout, outputs, bits, message in (("autoawq", 60, 4, "'q_proj' with 60 outputs"), ("autoawq", 64, 8, "8 bits"),
                                           ("compressed-tensors", 64, 3, "3 bits")):
        with pytest.raises(UserError, match=message):
            check_writable(layout, "q_proj", outputs, bits)
