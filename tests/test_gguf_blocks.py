"""GGUF's storage types: the bytes of the gguf package's own code, whatever the numbers; and what no type can hold."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from biomistral.quantization.gguf.blocks import STORAGES, encode

NAMES = sorted(STORAGES)


def theirs(numbers: np.ndarray, name: str) -> np.ndarray:
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[name]).view(np.uint8)


def cases() -> dict[str, torch.Tensor]:
    normal = torch.randn(300, 96, generator=torch.Generator().manual_seed(0)) * 0.03
    steps = torch.randint(-8, 9, (300, 96), generator=torch.Generator().manual_seed(1)) / 8  # extremes tie, halves are met
    gaps = normal.clone()
    gaps[::2], gaps[:, ::3] = 0, 0
    one = torch.zeros(3, 32)
    one[0, 5], one[1, 5], one[1, 9], one[2, 31] = -1.5, 2.0, -2.0, 60000.0
    return {"normal": normal, "bfloat16": normal.bfloat16(), "float16": normal.half(), "ties": steps, "zeros": gaps, "one": one,
            "tiny": normal * 1e-30, "many pieces": normal.repeat(20, 1), "three dimensions": normal.reshape(10, 30, 96)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", cases())
def test_bytes_are_the_packages(name: str, case: str) -> None:
    tensor = cases()[case]
    before = tensor.clone()
    ours = encode(tensor, STORAGES[name])
    expected = theirs(tensor.float().numpy(), name)
    assert ours.shape == expected.shape
    assert (ours.numpy() == expected).all()
    assert torch.equal(tensor, before)
    assert ours.numel() == STORAGES[name].num_bytes(tuple(tensor.shape))


FLOATS = arrays.arrays(np.float32, (2, 64), elements=st.floats(-60000, 60000, width=32, allow_subnormal=False))


@settings(max_examples=40, deadline=None)
@given(FLOATS)
def test_bytes_are_the_packages_for_any_numbers(numbers: np.ndarray) -> None:
    for name in NAMES:
        if numbers[numbers != 0].size == 0 or np.abs(numbers[numbers != 0]).min() > 1e-30:  # below, 1 / step overflows there
            assert (encode(torch.from_numpy(numbers), STORAGES[name]).numpy() == theirs(numbers, name)).all(), name


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, (1, 32), elements=st.floats(-100, 100, width=32)))
def test_what_is_read_back_is_near(numbers: np.ndarray) -> None:
    """No number moves further than half a step, and a step is the range by the number of levels; float16 rounds the step."""
    span = max(numbers.max(), 0) - min(numbers.min(), 0)
    for name, levels in (("Q8_0", 127), ("Q5_0", 16), ("Q4_0", 8), ("Q4_1", 15)):
        data = encode(torch.from_numpy(numbers), STORAGES[name]).numpy()
        back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
        step = span / levels if name == "Q4_1" else np.abs(numbers).max() / levels
        allowed = step if name in ("Q5_0", "Q4_0") else step / 2  # one end has a level less than the other
        assert np.abs(back - numbers).max() <= allowed * 1.01 + 0.01 * np.abs(numbers).max() + 1e-6, name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_refused(name: str, number: float) -> None:
    tensor = torch.zeros(40, 64)
    tensor[39, 63] = number
    with pytest.raises(ValueError, match="holds NaN or infinite numbers"):
        encode(tensor, STORAGES[name])


def test_numbers_that_float16_has_no_place_for() -> None:
    with pytest.raises(ValueError, match=r"over 65504, for which float16 has no place; choose gguf:BF16"):
        encode(torch.full((1, 32), 70000.0), STORAGES["F16"])
    assert encode(torch.full((1, 32), 70000.0), STORAGES["BF16"]).numel() == 64


def test_rows_that_do_not_divide() -> None:
    assert not STORAGES["Q4_0"].fits((4, 33))
    assert STORAGES["F16"].fits((4, 33))
