"""The compiled loops against PyTorch, bit for bit; what a merge imports; where it may be computed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from biomistral.artifact import Machine
from biomistral.errors import UserError
from biomistral.merging import scalars
from biomistral.merging.blocks import BLOCK, chunks, halved
from biomistral.merging.catalogue import METHODS, Variants
from biomistral.merging.checkpoint import StoredTensor
from biomistral.merging.engine import Operator, operator_for
from biomistral.merging.floats import Float, converted, narrow, rounded
from biomistral.merging.fused import native
from biomistral.merging.fused.operators import LOOPS
from biomistral.merging.operators import OnTorch, torch_operator
from biomistral.merging.planned import PlannedInput, PlannedTensor
from biomistral.merging.rows import Rows
from biomistral.merging.tensors import as_tensor
from biomistral.run import execute
from merge_models import FILES, settings
from tiny import make_model

TYPES = [Float.BF16, Float.F32]


def values(kind: str, rows: int, count: int, dtype: Float, start: int) -> np.ndarray:
    """Rows close to one another, of any finite bits, of subnormal numbers, or of few numbers with zeros of both signs."""
    random = np.random.default_rng(start)
    if kind == "near":
        found = random.standard_normal((1, count)) * 0.02 + random.standard_normal((rows, count)) * 0.002
        return narrow(found.astype(np.float32), dtype)
    if kind == "few":
        signs = np.where(random.random((rows, count)) < 0.5, -0.5, 0.5)
        return narrow((random.integers(0, 3, (rows, count)) * signs).astype(np.float32), dtype)
    bits = random.integers(0, 2**32, (rows, count), dtype=np.uint64).astype(np.uint32)
    bits &= np.uint32(0x80FFFFFF if kind == "tiny" else 0xFFFFFFFF)
    bits = np.where(bits & 0x7F800000 >= 0x70000000, bits & np.uint32(0x8FFFFFFF), bits)
    return (bits >> np.uint32(16)).astype(np.uint16) if dtype is Float.BF16 else bits.view(np.float32)


def task(method: str, count: int, dtype: Float, how: list[tuple[float, float]], shared: dict[str, float]) -> PlannedTensor:
    stored = StoredTensor(Path("model.safetensors"), dtype, (count,), 0)
    sources = tuple(PlannedInput(f"m{number}", "t", stored, {"weight": weight, "density": density})
                    for number, (weight, density) in enumerate(how))
    return PlannedTensor("t", method, (count,), dtype, dtype, shared, sources, METHODS[method].base == "required")


def carried_out(operator: Operator, inputs: np.ndarray, chunk: int) -> tuple[bytes, dict[str, object]]:
    parts, count = [], inputs.shape[1]
    for number in range(operator.passes):
        for start, size in chunks(count, chunk):
            operator.observe(number, Rows(inputs[:, start:start + size]), start)
        operator.settle(number)
    for start, size in chunks(count, chunk):
        parts.append(operator.apply(Rows(inputs[:, start:start + size]), start).tobytes())
    return b"".join(parts), operator.facts()


WEIGHTS = st.sampled_from([1.0, 0.5, -0.5, 0.3]) | st.floats(-2, 2, width=32)
DENSITIES = st.sampled_from([0.0, 1.0, 0.5, 0.37]) | st.floats(0, 1)


@hypothesis_settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(LOOPS)), st.sampled_from(TYPES), st.sampled_from(["near", "few", "tiny", "any"]),
       st.integers(1, 3 * BLOCK), st.lists(st.tuples(WEIGHTS, DENSITIES), min_size=2, max_size=7), st.booleans(), st.booleans(),
       st.sampled_from([1.0, 0.7]), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(["mergekit", "paper"]))
@example("ties", Float.BF16, "few", 9000, [(1.0, 1.0), (1.0, 0.5), (-1.0, 0.5)], True, False, 1.0, 0.0, "mergekit")
@example("task_arithmetic", Float.BF16, "few", 9000, [(1.0, 1.0), (-0.0, 1.0)], False, False, 1.0, 0.0, "mergekit")
@example("dare_ties", Float.BF16, "near", 9000, [(1.0, 1.0), (0.5, 0.5), (0.3, 1.0)], True, True, 0.7, 0.0, "mergekit")
def test_loops_and_pytorch_give_the_same_bits(method: str, dtype: Float, kind: str, count: int, how: list[tuple[float, float]],
                                              normalize: bool, rescale: bool, scale: float, t: float, dare: str) -> None:
    how = how[:2] if method == "slerp" else how
    one = task(method, count, dtype, how, {"t": t, "normalize": normalize, "rescale": rescale, "lambda": scale})
    inputs, variants = values(kind, len(how), count, dtype, count), Variants(dare_rescale=dare)  # type: ignore[arg-type]
    loops = operator_for(one, 3, variants)
    assert not isinstance(loops, OnTorch)
    found, wanted = (carried_out(operator, inputs, chunk) for operator, chunk in (
        (loops, BLOCK), (OnTorch(one, torch_operator(one, 3, variants), "cpu"), 2 * BLOCK)))
    numbers, others = (torch.from_numpy(np.frombuffer(each[0], dtype.storage).copy()) for each in (found, wanted))
    finite = torch.isfinite(as_tensor(others.numpy(), dtype))  # what is not is refused, whatever its bits
    assert numbers[finite].equal(others[finite])
    assert torch.isfinite(as_tensor(numbers.numpy(), dtype)).equal(finite)
    assert repr(found[1]) == repr(wanted[1])


@pytest.mark.parametrize("method", LOOPS)
def test_what_has_no_loop_goes_to_pytorch(method: str) -> None:
    shared = {"t": 0.5, "normalize": False, "rescale": False, "lambda": 1.0}
    for one, variants in ((task(method, 5, Float.F16, [(1.0, 1.0)] * 2, shared), Variants()),
                          (task(method, 5, Float.F32, [(1.0, 1.0)] * 2, shared), Variants(slerp_over="row"))):
        assert isinstance(operator_for(one, variants=variants), OnTorch)
    if method != "slerp":
        assert isinstance(operator_for(task(method, 5, Float.F32, [(1.0, 1.0)] * 8, shared)), OnTorch)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.sampled_from(list(Float)))
def test_floats_round_as_pytorch_does(numbers: list[float], dtype: Float) -> None:
    stored = narrow(np.array(numbers, np.float32), dtype)
    wanted = torch.tensor(numbers, dtype=torch.float32).to(dtype.torch)
    assert torch.equal(as_tensor(stored, dtype).nan_to_num(nan=7), wanted.nan_to_num(nan=7))
    assert torch.equal(as_tensor(converted(stored, dtype, Float.BF16), Float.BF16).nan_to_num(nan=7),
                       wanted.bfloat16().nan_to_num(nan=7))
    if np.isfinite(numbers[0]):
        assert rounded(numbers[0], dtype) == float(torch.tensor(numbers[0], dtype=dtype.torch))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=scalars.MOST_SUMMED))
def test_weights_are_added_as_pytorch_adds_them(weights: list[float]) -> None:
    assert float(scalars.weight_sum(np.array(weights, np.float32))) == float(torch.tensor(weights).sum())


def test_sums_by_halves_are_those_of_the_numbers() -> None:
    rows = np.random.default_rng(1).standard_normal((3, BLOCK)).astype(np.float32)
    assert np.allclose(halved(rows), rows.astype(np.float64).sum(1), rtol=1e-5, atol=1e-4)
    assert torch.from_numpy(halved(rows)).equal(halved(torch.from_numpy(rows)))


def test_a_loop_that_cannot_be_kept_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = native.machine_code("interpolate", Float.F32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert native.machine_code("interpolate", Float.F32)[:4] == code[:4] == b"\x7fELF"
    (kept,) = (tmp_path / "home").rglob("*.o")
    assert native.machine_code("interpolate", Float.F32) == kept.read_bytes()


# ---- through the front door -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(folder / name, dtype="bfloat16") for name in "ABC"}


@pytest.mark.parametrize("method", ["slerp", "ties"])
def test_a_usual_merge_imports_neither_pytorch_nor_numba(tmp_path: Path, models: dict[str, Path], method: str) -> None:
    made = settings(tmp_path, FILES[method], models)
    out = execute(made, tmp_path / "here").path  # compiles what is not kept yet
    places = [word for name, folder in made.models.items() for word in ("--models", f"{name}={folder}")]
    code = ("import sys; from biomistral.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
            "heavy = {'torch', 'transformers', 'numba', 'scipy'} & set(sys.modules)\nassert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code, "merge", str(made.config), "--out", str(tmp_path / "there"), *places], check=True)
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize(("device", "message"), [("cuda", "this machine has 0 CUDA devices"), ("banana", "not a device")])
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, models: dict[str, Path], device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        execute(settings(tmp_path, FILES["slerp"], models), tmp_path / "out", Machine(device=device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", FILES)
def test_a_gpu_gives_the_same_bytes(tmp_path: Path, models: dict[str, Path], method: str) -> None:
    made = settings(tmp_path, FILES[method], models)
    here, there = (execute(made, tmp_path / device, Machine(device=device)).path for device in ("cpu", "cuda"))
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
