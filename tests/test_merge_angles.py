"""Methods that measure angles through the front door, by naive references: SLERP by row, nuslerp, multislerp, model_stock."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.errors import UserError
from biomistral.merging import angular
from merge_arrays import DTYPES, STOCK, TWO, Arrays, arrays_of, check, make_models, merged

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def arrays(models: dict[str, Path]) -> Arrays:
    return arrays_of(models)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of last-axis vectors; a vector of zeros stands at a right angle to all."""
    lengths = np.sqrt((first**2).sum(-1, keepdims=True) * (second**2).sum(-1, keepdims=True))
    return np.asarray((first * second).sum(-1, keepdims=True) / np.where(lengths == 0, 1, lengths))


def arc(share: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Turn every last-axis vector ``share`` of the way, lengths left as they are."""
    angle = np.arccos(cosines(first, second))
    turned: np.ndarray = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)
    return turned


def columns_first(values: np.ndarray) -> np.ndarray:
    return values.T if values.ndim == 2 else values


LAYOUTS: dict[str, tuple[str, Callable[[Pair], Pair], Callable[[np.ndarray], np.ndarray]]] = {
    "flat": ("", lambda pair: (pair[0].ravel(), pair[1].ravel()), lambda values: values),
    "rows": ("parameters: {nuslerp_flatten: false}\n", lambda pair: pair, lambda values: values),
    "columns": ("parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n",
                lambda pair: (columns_first(pair[0]), columns_first(pair[1])), columns_first),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("based", [True, False])
def test_nuslerp(tmp_path: Path, models: dict[str, Path], arrays: Arrays, layout: str, based: bool) -> None:
    more, there, back = LAYOUTS[layout]
    found = merged(tmp_path, "merge_method: nuslerp\n" + TWO + more + ("base_model: A\n" if based else ""),
                   models if based else {name: models[name] for name in "BC"})

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name] if based else 0.0
        pair = there((arrays["B"][name] - base, arrays["C"][name] - base))
        return np.asarray(base + back(arc(0.75, *pair)).reshape(arrays["A"][name].shape))

    check(found, wanted, rtol=1e-3, atol=2e-5)  # an angle near 0 has half of float32's digits


def test_nuslerp_on_a_line_and_with_weights_that_cancel() -> None:
    assert angular.share_of_second(1, 3) == 0.75
    assert angular.share_of_second(1, -1) == 0.5
    first = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    by = angular.turn(0.25, torch.tensor([[1.0], [0.0]]))
    merged = angular.turned(by, first, torch.tensor([[6.0, 8.0], [0.0, 1.0]]))
    assert merged[0].tolist() == [3.75, 5.0]
    assert merged[1].tolist() == pytest.approx([math.cos(math.pi / 8), math.sin(math.pi / 8)])


def stock_share(offsets: list[np.ndarray]) -> np.ndarray:
    pairs = list(itertools.combinations(offsets, 2))
    cosine = sum(cosines(a, b) for a, b in pairs) / len(pairs)
    return np.asarray(len(offsets) * cosine / (1 + (len(offsets) - 1) * cosine))


@pytest.mark.parametrize("by_row", [False, True])
def test_model_stock(tmp_path: Path, models: dict[str, Path], arrays: Arrays, by_row: bool) -> None:
    found = merged(tmp_path, "merge_method: model_stock\n" + STOCK + (f"parameters: {{filter_wise: {str(by_row).lower()}}}\n"),
                   models)

    def wanted(name: str) -> np.ndarray:
        base, others = arrays["A"][name], [arrays[other][name] for other in "BC"]
        offsets = [other - base if by_row else (other - base).ravel() for other in others]
        share = stock_share(offsets)
        return np.asarray(share * (others[0] + others[1]) / 2 + (1 - share) * base)

    check(found, wanted)


def test_stock_by_hand() -> None:
    """Models that moved alike: their mean. At right angles: the base. Against each other: the base, not infinity."""
    base = torch.zeros(1, 2)
    for others, wanted in (([[1.0, 0.0], [1.0, 0.0]], [1.0, 0.0]), ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]),
                           ([[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0])):
        rows = [torch.tensor([other]) for other in others]
        sums = [angular.row_sums(product) for product in angular.stock_products(rows)]
        assert angular.stock(base, rows, angular.stock_ratio(sums, 2, torch.float32)).tolist() == [wanted]


def test_slerp_by_row(tmp_path: Path, models: dict[str, Path], arrays: Arrays) -> None:
    text = "merge_method: slerp\nmodels: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: 0.3}\n"
    found = merged(tmp_path, text, {name: models[name] for name in "AB"}, slerp_over="row")

    def wanted(name: str) -> np.ndarray:
        a, b = arrays["A"][name], arrays["B"][name]
        return np.where(np.abs(cosines(a, b)) > 0.9995, 0.7 * a + 0.3 * b, arc(0.3, a, b))

    check(found, wanted)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(DTYPES))
def test_slerp_by_row_keeps_its_ends_and_what_is_equal(start: int, t: float, dtype: torch.dtype) -> None:
    first, second = (torch.randn((3, 7), generator=torch.Generator().manual_seed(start + more)).to(dtype) for more in (0, 1))
    assert angular.slerp_rows(0, first, second)[0].equal(first)
    assert angular.slerp_rows(1, first, second)[0].equal(second)
    same, linear = angular.slerp_rows(t, first, first)
    assert linear == 3
    assert torch.allclose(same, first, rtol=1e-6 if dtype == torch.float32 else 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 9), st.integers(0, 30))
def test_sums_do_not_depend_on_the_cut(start: int, rows: int, columns: int, cut: int) -> None:
    values = torch.randn((rows, columns), generator=torch.Generator().manual_seed(start))
    whole, zeros = torch.cat([angular.row_sums(values[:cut]), angular.row_sums(values[cut:])]), torch.zeros(columns).double()
    assert whole.equal(angular.row_sums(values))
    assert angular.add_rows(angular.add_rows(zeros, values[:cut]), values[cut:]).equal(angular.add_rows(zeros, values))


# ---- multislerp -----------------------------------------------------------------------------------------------------


def barycentre(vectors: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The mean direction, moved by the weighted steps to it in the touching plane, at the weighted mean length."""
    lengths = np.array([np.linalg.norm(vector) for vector in vectors])
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
    mean = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    step = sum(weight * (unit - np.sum(unit * mean) * mean) for weight, unit in zip(weights, units, strict=True))
    angle = np.linalg.norm(step)
    return np.asarray((mean * np.cos(angle) + step * np.sin(angle) / angle) * (weights @ lengths))


@pytest.mark.parametrize("based", [True, False])
def test_multislerp(tmp_path: Path, models: dict[str, Path], arrays: Arrays, based: bool) -> None:
    text = "merge_method: multislerp\n" + TWO + ("base_model: A\n" if based else "")
    found = merged(tmp_path, text, models if based else {name: models[name] for name in "BC"})

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name] if based else np.zeros(1)
        return np.asarray(base + barycentre([arrays[other][name] - base for other in "BC"], np.array([0.25, 0.75])))

    check(found, wanted, rtol=1e-4, atol=1e-6)


def test_multislerp_of_opposites(tmp_path: Path, models: dict[str, Path]) -> None:
    """Two models whose directions cancel are interpolated linearly; three are refused."""
    text = "merge_method: multislerp\nmodels: [{model: B, parameters: {weight: 1}}, {model: C, parameters: {weight: -1}}]\n"
    with pytest.raises(UserError, match=r"the weights sum to 0 and cannot be normalised; .* normalize_weights: false"):
        merged(tmp_path, text, {name: models[name] for name in "BC"})
    same = {"B": models["B"], "C": models["B"], "D": models["B"]}
    (tmp_path / "two").mkdir()
    found = merged(tmp_path / "two", text + "parameters: {normalize_weights: false}\n", {name: same[name] for name in "BC"})
    assert all(tensor.count_nonzero() == 0 for tensor in found.values())
    (tmp_path / "three").mkdir()
    with pytest.raises(UserError, match="the weighted directions of the models cancel"):
        merged(tmp_path / "three", text.replace("}]", "}, {model: D, parameters: {weight: 0}}]")
               + "parameters: {normalize_weights: false}\n", same)


def test_multislerp_of_one_is_that_one(tmp_path: Path, models: dict[str, Path], arrays: Arrays) -> None:
    text = "merge_method: multislerp\nmodels: [{model: B, parameters: {weight: 0.3}}]\nbase_model: A\n"
    check(merged(tmp_path, text, {name: models[name] for name in "AB"}), lambda name: arrays["B"][name])
