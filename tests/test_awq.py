"""AWQ's arithmetic against what it stands for: real outputs of real activations."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biomistral.quantization.calibrated.activations import Statistics
from biomistral.quantization.calibrated.awq import (
    CLIP_STEP,
    CLIP_STEPS,
    FINEST,
    candidate,
    diagonal_blocks,
    output_error,
    search_clip,
    search_scales,
)
from biomistral.quantization.calibrated.groups import Scheme, grid, in_four_bits, rounded, to_levels


def naive_round(weight: torch.Tensor, group: int, bits: int = 4, symmetric: bool = False) -> torch.Tensor:
    """Round to nearest, one group at a time, in float64 but for the float16 scale."""
    top = 2**bits - 1
    out = torch.empty_like(weight, dtype=torch.float64)
    for n in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group):
            part = weight[n, start:start + group]  # float32 throughout: exact quotients would round halves another way
            low, high = part.min().clamp(max=0), part.max().clamp(min=0)
            if symmetric:
                low, high = -max(-low, high), max(-low, high)
            scale = ((high - low) / top).to(torch.float16).float()
            scale = scale if scale else torch.tensor(1.0)
            zero = torch.tensor(2.0 ** (bits - 1)) if symmetric else (-low / scale).round().clamp(0, top)
            levels = ((part / scale).round() + zero).clamp(0, top)
            out[n, start:start + group] = (levels - zero).double() * scale.double()
    return out


def skewed(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Activations with a few channels far larger than the rest, as language models have."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.ones(columns)
    size[::7] = 20.0
    return torch.randn(rows, columns, generator=generator) * size


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 32]), st.floats(-3, 3), st.sampled_from([3, 4, 8]), st.booleans())
@example(93, 8, 1.8377362506147286, 4, False)  # a quotient halfway between two levels
def test_rounding_equals_the_naive_one_and_errs_half_a_step(seed: int, group: int, shift: float, bits: int,
                                                            symmetric: bool) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)) + shift
    scheme = Scheme(group, bits, symmetric)
    matrix = to_levels(weight, *grid(weight, scheme), scheme)
    assert matrix.symmetric == symmetric or bool((matrix.zeros == 2 ** (bits - 1)).all())
    assert torch.allclose(matrix.dequantized().double(), naive_round(weight, group, bits, symmetric), atol=1e-5)
    assert torch.equal(matrix.dequantized(), rounded(weight, *grid(weight, scheme), scheme))
    assert int(matrix.levels.max()) < 2**bits
    step = matrix.scales.float().repeat_interleave(group, 1)
    assert bool(((matrix.dequantized() - weight).abs() <= step * (1.02 if bits < 8 else 1.2)).all())


def test_zero_and_constant_groups() -> None:
    weight = torch.cat((torch.zeros(8, 32), torch.full((8, 32), 0.25), torch.full((8, 32), -0.25)), 1)
    scheme = Scheme(32)
    assert torch.allclose(to_levels(weight, *grid(weight, scheme), scheme).dequantized(), weight, atol=2e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_three_bits_mean_the_same_in_four(symmetric: bool) -> None:
    weight, scheme = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), Scheme(32, 3, symmetric)
    matrix = to_levels(weight, *grid(weight, scheme), scheme)
    wider = in_four_bits(matrix)
    assert (wider.bits, wider.symmetric) == (4, symmetric)
    assert int(wider.levels.max()) < 16
    assert torch.equal(wider.dequantized(), matrix.dequantized())


def test_gram_gives_the_output_error() -> None:
    x, difference = skewed(50, 24, 0).double(), torch.randn(6, 24, dtype=torch.float64)
    assert torch.isclose(output_error(difference, x.T @ x), (x @ difference.T).square().sum())


@pytest.mark.parametrize("inputs", [16, 770, 1600])
def test_statistics_are_those_of_the_rows(inputs: int) -> None:
    x, statistics = skewed(60, inputs, 1), Statistics(inputs, torch.device("cpu"))
    for part in x.view(3, 4, 5, inputs):
        statistics.add(part)
        assert torch.equal(statistics.gram, statistics.gram.T)
    assert torch.allclose(statistics.gram, x.T @ x, rtol=1e-4, atol=1e-3)
    assert torch.allclose(statistics.mean, x.abs().mean(0), rtol=1e-5)


def test_scale_search_takes_the_best_of_the_finest_steps() -> None:
    x, weight = skewed(200, 64, 2), torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    mean = x.abs().mean(0)

    def error(scales: torch.Tensor) -> float:
        return float((x.double() @ (naive_round(weight * scales, 32) / scales - weight).T.double()).square().sum())

    errors = [error(candidate(mean, step * FINEST)) for step in range(round(1 / FINEST) + 1)]
    found = error(search_scales(weight, x.T @ x, mean, Scheme(32)))
    assert found < sorted(errors)[3]  # it looks at eleven of these 33
    assert found < 0.8 * errors[0]  # errors[0] is plain rounding


def test_scale_search_looks_at_rows_of_every_part() -> None:
    """Of 1,024 rows every fourth is looked at: a change in the others goes unseen, one in these does not."""
    x, weight = skewed(100, 64, 2), torch.randn(1024, 64, generator=torch.Generator().manual_seed(3))
    found = search_scales(weight, x.T @ x, x.abs().mean(0), Scheme(32))
    weight[1::4] *= 7
    assert torch.equal(search_scales(weight, x.T @ x, x.abs().mean(0), Scheme(32)), found)
    weight[::4, ::7] = 0  # what the scales protected
    assert not torch.equal(search_scales(weight, x.T @ x, x.abs().mean(0), Scheme(32)), found)


def test_clip_search_takes_the_best_factor_of_each_group() -> None:
    x, weight = skewed(100, 64, 4), torch.randn(8, 64, generator=torch.Generator().manual_seed(5))
    weight[:, 3] *= 6
    scheme = Scheme(32)
    shrink = search_clip(weight, diagonal_blocks(x.T @ x, 32), scheme)
    factors = [1 - step * CLIP_STEP for step in range(CLIP_STEPS)]
    for n in range(8):
        for group in range(2):
            part, seen = weight[n:n + 1, 32 * group:32 * group + 32], x[:, 32 * group:32 * group + 32]
            grids = [grid(part, scheme, torch.tensor([[factor]])) for factor in factors]
            errors = [float((seen @ (rounded(part, *found, scheme) - part).T).square().sum()) for found in grids]
            assert errors[factors.index(pytest.approx(float(shrink[n, group])))] == pytest.approx(min(errors), rel=1e-3)
    assert bool((shrink < 1).any())
