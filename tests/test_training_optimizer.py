"""AdamW with moments in 8 bits: the codes, one step against float32, a run against one with float32 moments, exact resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from biomistral.artifact import Artifact
from biomistral.recipe import Input, Machine
from biomistral.run import execute
from biomistral.training.settings import FinetuneSettings, PretrainSettings
from biomistral.training.watching.metrics import MetricsLog
from biomistral.training.weights.eight_bit import BLOCK, code_book, dequantise, quantise
from biomistral.training.weights.optimizer import checkpoint_bytes, make_optimizer, prepare_moments, state_of
from tiny import make_model
from training_inputs import make_corpus


def rounded(values: torch.Tensor, signed: bool) -> torch.Tensor:
    """What 8 bits make of (count,) values."""
    blocks = -(-len(values) // BLOCK)
    padded = torch.zeros(blocks, BLOCK)
    padded.view(-1)[:len(values)] = values
    codes, scales = torch.zeros(len(values), dtype=torch.uint8), torch.zeros(blocks)
    quantise(padded, signed, codes, scales)
    return dequantise(codes, scales, signed, torch.full((blocks, BLOCK), torch.nan)).view(-1)[:len(values)].clone()


@pytest.mark.parametrize("signed", [True, False])
def test_the_book_is_dynamic(signed: bool) -> None:
    """256 different values; each decade from 1 down has half as many as the one above it."""
    book = code_book(signed)
    assert len(book.unique()) == 256
    assert book.equal(book.sort().values)
    assert (book == 0).sum() == 1
    assert book.max() == 1
    decades = [int(((book > 10.0 ** -(power + 1)) & (book <= 10.0 ** -power)).sum()) for power in range(7)]
    assert decades == [65, 32, 16, 8, 4, 2, 1] if signed else [129, 64, 32, 16, 8, 4, 2]
    if signed:
        assert book[:127].equal(-book[128:255].flip(0))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.integers(-30, 30), st.booleans(), st.integers(0, 2**32 - 1))
def test_rounding_is_to_the_nearest_code_of_the_block(count: int, power: int, signed: bool, root: int) -> None:
    """Within float16's rounding of the nearest, by a search of the whole book in float64."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(root)) * 10.0 ** power
    values = values if signed else values.abs()
    found, book = rounded(values, signed).double(), code_book(signed).double()
    for start in range(0, count, BLOCK):
        part = values[start:start + BLOCK].double()
        scale = part.abs().max()
        nearest = (part[:, None] / scale - book).abs().min(1).values * scale
        error = (found[start:start + BLOCK] - part).abs()
        assert bool((error <= nearest + part.abs() / 1024 + 2e-7 * scale).all())
        assert bool((found[start:start + BLOCK] * part >= 0).all())
    assert float((found - values.double()).norm() / values.double().norm()) < 0.02


def test_hard_values() -> None:
    assert rounded(torch.zeros(300), True).equal(torch.zeros(300))
    spread = torch.tensor([1.0, -1.0, 1e-3, 1e-5, 3e-7, 1e-9])
    found = rounded(spread, True)
    assert found[:2].tolist() == pytest.approx([1.0, -0.99297], rel=1e-4)  # the book has 1 but not -1, as in the paper
    torch.testing.assert_close(found[2:5], spread[2:5], rtol=1.0, atol=0)
    assert found[5] == 0
    smallest = torch.full((5,), 1e-45)
    assert rounded(smallest, False).isfinite().all()


def updated(kind: str, steps: int) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """A matrix that does not divide into blocks, one larger than a piece, and a vector, after some steps."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(*size, generator=draw) for size in ((37, 29), (300, 257), (50,))]
    optimizer = make_optimizer(weights, 0.1, kind)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draw) * weight.abs()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()
    return weights, optimizer


def test_first_step_is_adamw_s_and_later_ones_stay_near() -> None:
    """The first step rounds nothing before it is taken; a vector is never rounded."""
    for steps, near in ((1, 1e-6), (20, 0.1)):
        start, plain, mine = updated("adamw", 0)[0], updated("adamw", steps)[0], updated("adamw8bit", steps)[0]
        for before, exact, found in zip(start, plain, mine, strict=True):
            assert (found - exact).norm() <= near * (exact - before).norm()
        torch.testing.assert_close(mine[2], plain[2], rtol=1e-5, atol=1e-6)


def test_state_is_small_and_comes_back() -> None:
    weights, optimizer = updated("adamw8bit", 3)
    named = dict(zip("abc", weights, strict=True))
    state = state_of(named, optimizer)
    moments = sum(tensor.nbytes for name, tensor in state.items() if not name.startswith("master."))
    matrices = sum(weight.numel() for weight in weights[:2])
    assert moments <= 2 * matrices + 8 * (matrices // BLOCK + 2) + 8 * 50
    assert sum(tensor.nbytes for tensor in state.values()) == pytest.approx(checkpoint_bytes(matrices, "adamw8bit"), rel=0.02)
    copies = {name: tensor.clone() for name, tensor in named.items()}
    other = make_optimizer(list(copies.values()), 0.1, "adamw8bit")
    prepare_moments(copies, other, 3)
    for name, tensor in state_of(copies, other).items():
        tensor.copy_(state[name])
    for held, using in ((named, optimizer), (copies, other)):
        for number, weight in enumerate(held.values()):
            weight.grad = torch.full_like(weight, 0.01 * (number + 1))
        for group in using.param_groups:
            group["lr"] = 1e-2
        using.step()
    assert all(named[name].equal(copies[name]) for name in named)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    folder = tmp_path_factory.mktemp("optimizer")
    model = make_model(folder / "model")
    return {"model": Input(model), "corpus": Input(make_corpus(folder / "corpus", model))}


def pretrain(inputs: dict[str, Input], out: Path, **changes: Any) -> Artifact:
    few = {"learning_rate": 3e-3, "batch_sequences": 4, "epochs": 3, "checkpoint_steps": 2, "output_dtype": "float32"}
    return execute(PretrainSettings(**inputs, **{**few, **changes}), out, Machine(device="cpu"))


def losses(made: Artifact) -> list[float]:
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_losses_follow_those_of_float32_moments(inputs: dict[str, Input], tmp_path: Path) -> None:
    plain, mine = (losses(pretrain(inputs, tmp_path / kind, optimizer=kind)) for kind in ("adamw", "adamw8bit"))
    assert plain[-1] < 0.8 * plain[0]
    assert mine == pytest.approx(plain, rel=0.02)
    assert mine != plain


def test_interrupted_and_run_again_it_ends_in_the_same_bits(inputs: dict[str, Input], tmp_path: Path) -> None:
    whole = pretrain(inputs, tmp_path / "whole", optimizer="adamw8bit", max_steps=7)
    add = MetricsLog.add

    def cut(self: MetricsLog, row: dict[str, Any]) -> None:
        add(self, row)
        if row["step"] == 5 and "loss" in row:
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "add", cut)
        with pytest.raises(KeyboardInterrupt):
            pretrain(inputs, tmp_path / "cut", optimizer="adamw8bit", max_steps=7)
    (stored,) = list(tmp_path.glob(".cut.*.partial/checkpoints/step-00000004/*.safetensors"))
    kinds = {tensor.dtype for name, tensor in load_file(stored).items() if "exp_avg." in name and "norm" not in name}
    assert kinds == {torch.uint8}
    again = pretrain(inputs, tmp_path / "cut", optimizer="adamw8bit", max_steps=7)
    assert losses(again) == losses(whole)
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_parts_are_refused(parallel: str) -> None:
    with pytest.raises(ValueError, match=f"adamw8bit keeps the moments of whole weights.*parallel: {parallel}"):
        FinetuneSettings(model=Input("m"), train=(Input("t"),), optimizer="adamw8bit", parallel=parallel)
