"""The arithmetic of merging against naive references, and the laws it keeps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.merging import blocks, kernels, methods, scalars
from biomistral.merging.blocks import BLOCK
from biomistral.merging.draws import dare_mask
from biomistral.merging.floats import Float

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def random_tensor(seed: int, size: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float64 to bfloat16, half to even, by hand (normal range): an 8-bit significand."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def floats(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


# ---- linear ---------------------------------------------------------------------------------------------------------


def test_linear_is_the_weighted_mean_rounded_once() -> None:
    tensors = [random_tensor(seed, 500) for seed in range(3)]
    weights = [0.25, 0.5, 1.25]  # exact in every type, so float64 gives the reference
    wanted = to_bf16(sum(w * floats(t) for w, t in zip(weights, tensors, strict=True)) / 2.0)
    assert np.array_equal(floats(methods.linear(tensors, weights)), wanted)
    unscaled = to_bf16(sum(w * floats(t) for w, t in zip(weights, tensors, strict=True)))
    assert np.array_equal(floats(methods.linear(tensors, weights, normalize=False)), unscaled)


# ---- slerp ----------------------------------------------------------------------------------------------------------


def naive_slerp(t: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("nearness", [0.0, 0.5, 0.99, 1.0])
def test_slerp_follows_the_formula(nearness: float) -> None:
    a = random_tensor(1, 9000, torch.float32)
    b = nearness * a + (1 - nearness) * random_tensor(2, 9000, torch.float32)
    for t in (0.0, 0.3, 1.0):
        assert np.allclose(floats(methods.slerp(t, a, b)), naive_slerp(t, floats(a), floats(b)), rtol=2e-6, atol=1e-7)


def test_slerp_by_hand() -> None:
    """Two unit vectors at a right angle: half way lies at 45 degrees."""
    half = methods.slerp(0.5, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert half.tolist() == pytest.approx([math.sqrt(0.5)] * 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from(DTYPES))
def test_slerp_ends_are_copies_bit_for_bit(seed: int, size: int, dtype: torch.dtype) -> None:
    a, b = random_tensor(seed, size, dtype), random_tensor(seed + 1, size, dtype)
    a[0] = -0.0
    assert methods.slerp(0, a, b).view(torch.uint8).equal(a.view(torch.uint8))
    assert methods.slerp(1, a, b).view(torch.uint8).equal(b.view(torch.uint8))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(DTYPES[:2]))
def test_slerp_of_a_tensor_with_itself_is_the_tensor(seed: int, t: float, dtype: torch.dtype) -> None:
    a = random_tensor(seed, 100, dtype)
    assert methods.slerp(t, a, a).equal(a)


def test_slerp_of_zeros_is_zero() -> None:
    assert methods.slerp(0.5, torch.zeros(5), torch.zeros(5)).tolist() == [0] * 5


# ---- TIES -----------------------------------------------------------------------------------------------------------


def test_ties_by_hand() -> None:
    """Two models, three elements: agreeing, opposed with the larger negative, and one zero."""
    base = torch.tensor([1.0, 1.0, 1.0])
    deltas = torch.tensor([[0.5, 0.25, 0.0], [0.25, -0.75, 0.5]])
    merged, conflicts = methods.add_task_vectors(base, deltas, scalars.Sum((1.0, 2.0), consensus=True, normalize=True))
    # weighted: [0.5, 0.25, 0], [0.5, -1.5, 1]; majority +, -, +; kept 0.5 + 0.5 over 3, -1.5 over 2, 1 over 2
    assert merged.tolist() == pytest.approx([1 + 1 / 3, 1 - 0.75, 1.5])
    assert conflicts == 1


def test_ties_step_by_step_in_bf16() -> None:
    """Every operation rounds to bfloat16; the sum over models rounds once."""
    base, others = random_tensor(0, 400), [random_tensor(seed, 400) for seed in (1, 2, 3)]
    weights = [0.5, 0.3, 0.7]
    rounded = [float(to_bf16(np.array(w))) for w in weights]
    deltas = np.stack([to_bf16(floats(other) - floats(base)) for other in others])
    weighted = np.stack([to_bf16(w * d) for w, d in zip(rounded, deltas, strict=True)])
    sign = np.where(weighted.sum(0) >= 0, 1, -1)
    agree = np.sign(weighted) == sign
    divisor = to_bf16((np.array(rounded)[:, None] * agree).sum(0))
    mixed = to_bf16(to_bf16((weighted * agree).sum(0)) / np.where(divisor == 0, 1, divisor))
    wanted = to_bf16(floats(base) + mixed)
    stacked = torch.stack([other - base for other in others])
    merged, conflicts = methods.add_task_vectors(base, stacked, scalars.Sum(tuple(weights), consensus=True, normalize=True))
    assert np.array_equal(floats(merged), wanted)
    assert conflicts == int(((weighted != 0) & ~agree).any(0).sum())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=60), st.floats(0.001, 1), st.sampled_from(DTYPES))
def test_trim_keeps_what_a_stable_sort_keeps(values: list[float], density: float, dtype: torch.dtype) -> None:
    delta = torch.tensor(values).to(dtype)
    keep = scalars.num_kept(density, len(values))
    assert keep == min(len(values), max(1, int(density * len(values))))
    wanted = set(sorted(range(len(values)), key=lambda index: -abs(float(delta[index])))[:keep])
    bits = kernels.magnitude_bits(delta)
    if dtype == torch.float32:
        threshold = sorted(bits.tolist(), reverse=True)[keep - 1]
        left = keep - sum(bit > threshold for bit in bits.tolist())
    else:
        threshold, above = scalars.select_bin(torch.bincount(bits, minlength=1 << 15).numpy(), keep)
        left = keep - above
    first, left = methods.trim_mask(bits[:7], threshold, left)
    second, left = methods.trim_mask(bits[7:], threshold, left)
    assert left == 0
    assert set(torch.cat([first, second]).nonzero().flatten().tolist()) == wanted


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.25, 1.0, 2.0]))
def test_ties_of_one_whole_model_is_the_base_plus_its_delta(seed: int, weight: float) -> None:
    base, other = random_tensor(seed, 100), random_tensor(seed + 1, 100)
    delta = (other - base).unsqueeze(0)
    normalised, _ = methods.add_task_vectors(base, delta.clone(), scalars.Sum((weight,), consensus=True, normalize=True))
    assert normalised.equal(base + delta[0])
    plain, _ = methods.add_task_vectors(base, delta.clone(), scalars.Sum((weight,), consensus=True, normalize=False))
    assert plain.equal(base + delta[0] * weight)


# ---- DARE -----------------------------------------------------------------------------------------------------------


def drawn(key: int, start: int, count: int, density: float) -> np.ndarray:
    """A mask as bools; what `dare_mask` says of it is true."""
    mask = np.empty(count, np.uint8)
    assert dare_mask(key, start, density, mask) == mask.sum()
    assert mask.max(initial=0) <= 1
    return mask.astype(bool)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 3), st.integers(1, 9000), st.floats(0, 1))
def test_a_mask_is_a_function_of_the_position(key: int, block: int, count: int, density: float) -> None:
    for share in (density, round(density * 256) / 256):  # of 32 random bits and of 8
        whole = drawn(key, 0, BLOCK * block + count, share)
        assert np.array_equal(drawn(key, BLOCK * block, count, share), whole[BLOCK * block:])


def philox(counter: np.ndarray, key: int) -> np.ndarray:
    """Philox4x32-10 as its paper gives it, (4, counters); 64-bit counters, as the upper two words are not used here."""
    words = [counter & 0xFFFFFFFF, counter >> 32, np.zeros_like(counter), np.zeros_like(counter)]
    first, second = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(10):
        left, right = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [(right >> 32) ^ words[1] ^ first, right & 0xFFFFFFFF, (left >> 32) ^ words[3] ^ second, left & 0xFFFFFFFF]
        first, second = (first + 0x9E3779B9) & np.uint64(0xFFFFFFFF), (second + 0xBB67AE85) & np.uint64(0xFFFFFFFF)
    return np.stack(words).astype(np.uint32)


def test_philox_gives_its_authors_numbers() -> None:
    assert [f"{word:08x}" for word in philox(np.zeros(1, np.uint64), 0)[:, 0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63 - 1), st.sampled_from([0, 3, (1 << 32) // 256, (1 << 32) // 256 - 1]), st.integers(0, 256))
def test_a_mask_is_philox_below_the_density(key: int, block: int, limit: int) -> None:
    numbers = philox(np.arange(256, dtype=np.uint64) + np.uint64(256 * block), key).reshape(-1).view(np.uint8)
    assert np.array_equal(drawn(key, BLOCK * block, BLOCK, limit / 256), numbers < limit)
    between = drawn(key, BLOCK * block, BLOCK, min(1.0, (limit + 0.5) / 256))
    assert between[numbers < limit].all()
    assert not between[numbers > limit].any()


def test_masks_keep_the_share_they_should() -> None:
    for density in (0.1, 0.3 / 2**12, 0.375, 0.5, 1 - 2**-16, 0.9):
        kept = drawn(7, 0, 200_000, density).mean()
        assert abs(float(kept) - density) < 5 * math.sqrt(density * (1 - density) / 200_000)
    assert not drawn(1, 0, 64, 0.0).any()
    assert drawn(1, 0, 64, 1.0).all()
    assert not np.array_equal(drawn(1, 0, 64, 0.5), drawn(2, 0, 64, 0.5))


def test_dare_keeps_the_mean_of_a_task_vector() -> None:
    """Dropping and dividing by the density leaves the expectation: checked within five standard errors."""
    delta = random_tensor(3, 100_000, torch.float32) * 0.01 + 0.005
    density = 0.3
    thinned = delta * torch.from_numpy(drawn(11, 0, len(delta), density)) / density
    spread = math.sqrt(float((delta**2).sum()) * (1 - density) / density) / len(delta)
    assert abs(float(thinned.mean() - delta.mean())) < 5 * spread


def test_the_l1_rescale_is_a_ratio_of_norms_rounded_like_the_weights() -> None:
    assert scalars.l1_rescale(10.0, 4.0, Float.F32) == 2.5
    assert scalars.l1_rescale(10.0, 3.0, Float.BF16) == float(to_bf16(np.array(10 / 3)))
    assert scalars.l1_rescale(1e-9, 1e-9, Float.F32) == scalars.l1_rescale(1.0, 0.0, Float.F32) == 1.0
    assert scalars.l1_rescale(2e5, 1e5, Float.F16) == 2.0
    assert scalars.l1_rescale(2.0, 3.0, Float.F16) == float(np.float16(2 / 3))
    assert scalars.dare_density(0.53, Float.BF16) == float(to_bf16(np.array(0.53)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 20_000), st.integers(1, 4))
def test_block_sums_do_not_depend_on_the_cut(seed: int, size: int, cut: int) -> None:
    values = random_tensor(seed, size, torch.float32)
    at = cut * blocks.BLOCK
    parts = kernels.block_sums(values[:at]) + kernels.block_sums(values[at:])
    assert math.fsum(parts) == math.fsum(kernels.block_sums(values))
