"""GPTQ against a plain transcription of its algorithm in float64, and against the outputs it is meant to keep."""

import pytest
import torch

from biomistral.quantization.calibrated.gptq import DAMPING, compensate, inverse_factor
from biomistral.quantization.calibrated.groups import Scheme, grid, rounded
from test_awq import skewed


def correlated(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Activations whose channels follow one another: what compensation feeds on."""
    mix = torch.randn(columns, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5
    return skewed(rows, columns, seed + 1) @ (mix + torch.eye(columns))


def naive_gptq(weight: torch.Tensor, gram: torch.Tensor, scheme: Scheme, order: list[int]) -> torch.Tensor:
    """One column at a time: round it, spread its error by the inverse of what is left of the damped Gram matrix."""
    weight, gram = weight.double().clone(), gram.double().clone()
    gram += DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    scales, zeros = (part.double() for part in grid(weight.float(), scheme))
    out = torch.empty_like(weight)
    for place, k in enumerate(order):
        left = order[place:]
        inverse = torch.linalg.inv(gram[left][:, left])
        group = k // scheme.group_size
        scale, zero = scales[:, group], zeros[:, group]
        out[:, k] = ((weight[:, k] / scale).round().clamp(-zero, scheme.top - zero)) * scale
        error = (weight[:, k] - out[:, k]) / inverse[0, 0]
        weight[:, left] -= error[:, None] * inverse[0]
    return out


@pytest.mark.parametrize("by_activity", [False, True])
@pytest.mark.parametrize("scheme", [Scheme(32), Scheme(64, 3, True)])
def test_levels_are_those_of_the_plain_algorithm(scheme: Scheme, by_activity: bool) -> None:
    x, weight = correlated(400, 128, 0), torch.randn(24, 128, generator=torch.Generator().manual_seed(7))
    gram = x.T @ x
    order = gram.diagonal().argsort(descending=True, stable=True).tolist() if by_activity else list(range(128))
    seen, scales, zeros = compensate(weight, gram, scheme, by_activity=by_activity)
    ours, expected = rounded(seen, scales, zeros, scheme), naive_gptq(weight, gram, scheme, order)
    same = (ours.double() - expected).abs() < 1e-4
    assert float(same.double().mean()) > 0.99  # a quotient halfway between two levels may fall either way
    assert torch.equal(torch.stack(grid(weight, scheme)), torch.stack((scales, zeros)))


def test_inverse_factor_is_one() -> None:
    x = correlated(300, 96, 3)
    gram = x.T @ x
    factor = inverse_factor(gram)
    damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(96)
    assert torch.allclose(factor.T @ factor @ damped, torch.eye(96), atol=2e-3)
    assert torch.equal(factor, factor.triu())


def test_it_errs_less_than_rounding_and_less_still_by_activity() -> None:
    x, weight, scheme = correlated(600, 128, 4), torch.randn(32, 128, generator=torch.Generator().manual_seed(8)), Scheme(32, 3)

    def error(by_activity: bool | None) -> float:
        seen, scales, zeros = (weight, *grid(weight, scheme)) if by_activity is None else compensate(
            weight, x.T @ x, scheme, by_activity=by_activity)
        return float((x @ (rounded(seen, scales, zeros, scheme) - weight).T).square().sum())

    assert error(True) < error(False) < 0.6 * error(None)


@pytest.mark.parametrize("columns", [slice(0, 128), slice(3, 40)])
def test_inputs_that_are_never_active_are_rounded_to_nearest(columns: slice) -> None:
    x, weight, scheme = correlated(400, 128, 5), torch.randn(8, 128, generator=torch.Generator().manual_seed(9)), Scheme(64)
    x[:, columns] = 0
    seen, scales, zeros = compensate(weight, x.T @ x, scheme)
    nearest = rounded(weight, *grid(weight, scheme), scheme)
    assert torch.equal(rounded(seen, scales, zeros, scheme)[:, columns], nearest[:, columns])
    assert bool(seen.isfinite().all())


def test_fewer_tokens_than_inputs_can_still_be_factored() -> None:
    x, weight, scheme = correlated(5, 128, 6), torch.randn(8, 128, generator=torch.Generator().manual_seed(1)), Scheme(64)
    seen, *_ = compensate(weight, x.T @ x, scheme)
    first = grid(weight, scheme)
    error, plain = (float((x @ (rounded(values, *first, scheme) - weight).T).square().sum()) for values in (seen, weight))
    assert error < 0.2 * plain
