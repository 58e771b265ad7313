"""Methods that thin, select and add, through the front door against a naive reference; laws; chunks that change no bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from biomistral.errors import UserError
from biomistral.merging import della, scalars
from biomistral.merging.catalogue import METHODS, Variants
from biomistral.merging.floats import Float
from biomistral.merging.plan import plan_merge
from biomistral.merging.stream import stream
from biomistral.seeds import seed
from merge_arrays import DTYPES, STOCK, TWO, Arrays, arrays_of, check, make_models, merged
from tiny import make_model

TASKS = """models:
  - {model: A}
  - {model: B, parameters: {weight: 0.5, density: 0.4}}
  - {model: C, parameters: {weight: 0.3, density: 0.7}}
base_model: A
"""

@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def arrays(models: dict[str, Path]) -> Arrays:
    return arrays_of(models)


# ---- thinning -------------------------------------------------------------------------------------------------------


def ties(base: np.ndarray, deltas: list[np.ndarray], weights: tuple[float, ...], normalize: bool) -> np.ndarray:
    """Weigh, elect signs, add up what agrees."""
    rows = np.stack([weight * delta for weight, delta in zip(weights, deltas, strict=True)])
    sign = np.where(rows.sum(0) >= 0, 1, -1)
    agrees = np.sign(rows) == sign
    divisor = (np.array(weights).reshape(-1, *[1] * base.ndim) * agrees).sum(0) if normalize else 1.0
    return np.asarray(base + (rows * agrees).sum(0) / np.where(divisor == 0, 1, divisor))


def band(delta: np.ndarray, density: float, gamma: float) -> np.ndarray:
    kept, top = int(density * delta.size), int(gamma * delta.size)
    low = max(0, delta.size - kept - top)
    mask = np.zeros(delta.size)
    mask[np.argsort(np.abs(delta).ravel(), kind="stable")[low:low + kept]] = 1
    return delta * mask.reshape(delta.shape)


@pytest.mark.parametrize(("method", "consensus"), [("breadcrumbs", False), ("breadcrumbs_ties", True)])
def test_breadcrumbs(tmp_path: Path, models: dict[str, Path], arrays: Arrays, method: str, consensus: bool) -> None:
    found = merged(tmp_path, f"merge_method: {method}\nparameters: {{gamma: 0.1}}\n" + TASKS, models)

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name]
        deltas = [band(np.float32(arrays[other][name] - base), density, 0.1) for other, density in (("B", 0.4), ("C", 0.7))]
        return ties(base, deltas, (0.5, 0.3), False) if consensus else base + 0.5 * deltas[0] + 0.3 * deltas[1]

    check(found, wanted)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 200))
def test_breadcrumbs_keeps_its_density_and_drops_what_is_left(density: float, gamma: float, numel: int) -> None:
    below, kept = scalars.breadcrumbs_band(density, gamma, numel)
    assert kept == int(density * numel)
    assert 0 <= below <= numel - kept
    above = numel - kept - below
    assert above == min(int(gamma * numel), numel - kept)


def naive_della(delta: np.ndarray, density: float, epsilon: float, key: int, paper: bool) -> np.ndarray:
    """Rank within each row decides the probability of staying; then one scale, or one over each probability."""
    rows = delta.reshape(-1, delta.shape[-1])
    ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1)
    chances = density - epsilon + 2 * epsilon * ranks / (rows.shape[1] - 1)
    numbers = scalars.uniform_bits(key, 0, delta.size).astype(np.float64) / 2**32
    kept = np.where(numbers.reshape(rows.shape) < chances, rows, 0)
    return (kept / chances if paper else kept * np.abs(rows).sum() / np.abs(kept).sum()).reshape(delta.shape)


@pytest.mark.parametrize(("method", "rescale"), [("della", "mergekit"), ("della_linear", "mergekit"), ("della_linear", "paper")])
def test_della(tmp_path: Path, models: dict[str, Path], arrays: Arrays, method: str, rescale: str) -> None:
    found = merged(tmp_path, f"merge_method: {method}\nparameters: {{epsilon: 0.2}}\n" + TASKS, models, seed=3,
                   dare_rescale=rescale)

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name]
        deltas = [naive_della((np.float32(arrays[other][name] - base)).astype(float), density, 0.2, seed(3, "dare", name, place),
                              rescale == "paper") for place, (other, density) in enumerate((("B", 0.4), ("C", 0.7)))]
        return ties(base, deltas, (0.5, 0.3), True) if method == "della" else base + 0.5 * deltas[0] + 0.3 * deltas[1]

    check(found, wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 60), st.sampled_from([Float.BF16, Float.F32]))
def test_della_prefers_large_magnitudes(start: int, rows: int, columns: int, dtype: Float) -> None:
    delta = torch.randn((rows, columns), generator=torch.Generator().manual_seed(start)).to(dtype.torch)
    chances = torch.from_numpy(della.by_rank(delta, della.chances(columns, 0.5, 0.2, dtype)))
    order = delta.abs().double().sort(dim=1, stable=True).indices
    assert (chances.gather(1, order).diff(dim=1) >= 0).all()
    assert torch.allclose(chances.amin(1), torch.tensor(0.3, dtype=torch.float64), atol=2e-3)
    assert torch.allclose(chances.amax(1), torch.tensor(0.7, dtype=torch.float64), atol=4e-3)


def test_della_of_one_column_keeps_its_density() -> None:
    assert della.chances(1, 0.4, 0.2, Float.BF16).tolist() == [0.4]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 50), st.sampled_from(DTYPES))
def test_ranks_are_those_of_a_stable_sort(start: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    """Few distinct magnitudes, so that most are equal."""
    values = torch.randint(-3, 4, (rows, columns), generator=torch.Generator().manual_seed(start)).to(dtype)
    wanted = np.argsort(np.argsort(values.abs().float().numpy(), axis=1, kind="stable"), axis=1)
    assert (della.by_rank(values, np.arange(columns)) == wanted).all()


def test_ranks_of_a_row_longer_than_16_bits() -> None:
    values = torch.arange(70_000, 0, -1).to(torch.bfloat16).view(1, -1)
    wanted = np.argsort(np.argsort(values.float().numpy(), axis=1, kind="stable"), axis=1)
    assert (della.by_rank(values, np.arange(70_000)) == wanted).all()


def test_ties_over_the_whole_model(tmp_path: Path, models: dict[str, Path], arrays: Arrays) -> None:
    """The k-th largest magnitude of all tensors is the threshold of each; densities then differ from tensor to tensor."""
    found = merged(tmp_path, "merge_method: ties\n" + TASKS, models, ties_trim="model")
    thresholds = []
    for other, density in (("B", 0.4), ("C", 0.7)):
        whole = np.sort(np.concatenate([np.abs(np.float32(arrays[other][name] - arrays["A"][name])).ravel() for name in found]))
        thresholds.append(whole[-int(density * len(whole))])

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name]
        deltas = [np.float32(arrays[other][name] - base) for other in "BC"]
        return ties(base, [np.where(np.abs(delta) >= low, delta, 0) for delta, low in zip(deltas, thresholds, strict=True)],
                    (0.5, 0.3), True)

    check(found, wanted)


def test_a_whole_model_has_one_density_and_one_type(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"ties_trim 'model' takes one density for the whole of 'B', found 0.1, 0.9"):
        merged(tmp_path, "merge_method: ties\n" + TASKS.replace("0.4", "[{filter: mlp, value: 0.1}, {value: 0.9}]"), models,
               ties_trim="model")
    mixed = make_model(tmp_path / "B", hidden=48)
    half = {name: tensor.bfloat16() if "norm" in name else tensor
            for name, tensor in load_file(models["B"] / "model.safetensors").items()}
    save_file(half, mixed / "model.safetensors", metadata={"format": "pt"})
    text = TASKS.replace("  - {model: C, parameters: {weight: 0.3, density: 0.7}}\n", "")
    base = make_model(tmp_path / "A", hidden=48)
    save_file(half, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="all must be computed in one type; write a dtype"):
        merged(tmp_path, "merge_method: ties\n" + text, {"A": base, "B": mixed}, ties_trim="model")


# ---- elementwise, and SCE -------------------------------------------------------------------------------------------


def test_nearswap(tmp_path: Path, models: dict[str, Path], arrays: Arrays) -> None:
    text = "merge_method: nearswap\nmodels: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: 0.01}\n"
    found = merged(tmp_path, text, {name: models[name] for name in "AB"})

    def wanted(name: str) -> np.ndarray:
        base, delta = arrays["A"][name], arrays["B"][name] - arrays["A"][name]
        return np.asarray(base + delta * np.clip(0.01 / np.maximum(np.abs(delta), 1e-6), 0, 1))

    check(found, wanted)


def test_ram(tmp_path: Path, models: dict[str, Path], arrays: Arrays) -> None:
    found = merged(tmp_path, "merge_method: ram\nparameters: {epsilon: 0.02}\n" + STOCK, models)

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name]
        deltas = np.stack([np.float32(arrays[other][name] - base) for other in "BC"]).astype(np.float64)
        deltas[np.abs(deltas) <= 0.02] = 0
        return np.asarray(base + deltas.sum(0) / np.maximum((deltas != 0).sum(0), 1))

    check(found, wanted)


@pytest.mark.parametrize("share", [1, 0.3, 0])
def test_sce(tmp_path: Path, models: dict[str, Path], arrays: Arrays, share: float) -> None:
    """Entries of the largest variance stay; a model's weight is its share of the squares; minorities of sign are erased."""
    found = merged(tmp_path, f"merge_method: sce\nparameters: {{select_topk: {share}}}\n" + STOCK, models)

    def wanted(name: str) -> np.ndarray:
        base = arrays["A"][name]
        deltas = np.stack([np.float32(arrays[other][name] - base) for other in "BC"]).astype(np.float64)
        kept = np.argsort(-deltas.var(0).astype(np.float32).ravel(), kind="stable")[: int(share * base.size)]
        mask = np.zeros(base.size)
        mask[kept] = 1
        deltas *= mask.reshape(base.shape)
        squares = np.square(deltas).reshape(2, -1).mean(1)
        squares = squares / squares.sum() if squares.sum() > 1e-6 else np.full(2, 0.5)
        agrees = (np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)) * squares.reshape(2, *[1] * base.ndim)
        return np.asarray(base + (deltas * agrees).sum(0) / np.maximum(agrees.sum(0), 1e-6))

    total = differ = 0
    for name, tensor in found.items():  # equal variances in float32 may be told apart in float64: a few entries change places
        close = np.isclose(tensor.double().numpy(), wanted(name), rtol=2e-5, atol=2e-7)
        total, differ = total + close.size, differ + int((~close).sum())
    assert differ <= 1e-4 * total


# ---- chunks ---------------------------------------------------------------------------------------------------------

ROWS = "parameters: {nuslerp_flatten: false}\n"
COLUMNS = "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n"
FILES = {
    "nuslerp": TWO, "nuslerp from a base": TWO + "base_model: A\n", "nuslerp rows": TWO + ROWS,
    "nuslerp columns": TWO + COLUMNS + "base_model: A\n", "model_stock": STOCK,
    "model_stock by row": STOCK + "parameters: {filter_wise: true}\n", "breadcrumbs": TASKS + "parameters: {rescale: true}\n",
    "breadcrumbs_ties": TASKS, "della": TASKS, "della_linear": TASKS, "ties over the model": TASKS,
    "slerp by row": "models: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: [0.2, 0.8]}\n",
    "della_linear as published": TASKS, "multislerp": TWO, "multislerp from a base": TWO + "base_model: A\n", "sce": STOCK,
    "sce selected": STOCK + "parameters: {select_topk: 0.3}\n", "ram": STOCK + "parameters: {epsilon: 0.01}\n",
    "nearswap": "models: [{model: A}, {model: B}]\nbase_model: A\nparameters: {t: [0.01, 0.02]}\n",
}
VARIANTS = {"ties over the model": Variants(ties_trim="model"), "slerp by row": Variants(slerp_over="row"),
            "della_linear as published": Variants(dare_rescale="paper")}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("name", FILES)
def test_chunk_size_never_changes_a_bit(tmp_path: Path, models: dict[str, Path], name: str, dtype: str) -> None:
    path, made = tmp_path / "merge.yaml", []
    path.write_text(f"merge_method: {name.split()[0]}\ndtype: {dtype}\n{FILES[name]}")
    plan = plan_merge(path, {key: place for key, place in models.items() if f"model: {key}" in FILES[name]})
    for chunk in (1, 3 * 4096, 1 << 20):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        _, rows = stream(plan, folder, variants=VARIANTS.get(name, Variants()), chunk=chunk)
        made.append(((folder / "model.safetensors").read_bytes(), rows))
    assert made[0] == made[1] == made[2]


def test_every_method_is_tested_here_or_with_the_stream() -> None:
    elsewhere = {"linear", "slerp", "passthrough", "task_arithmetic", "ties", "dare_ties", "dare_linear"}
    assert set(METHODS) == elsewhere | {name.split()[0] for name in FILES}
