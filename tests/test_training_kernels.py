"""Kernels that only some machines have: what is handed to them, that a wrong one is found out; and what is refused at once."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen
from torch.nn.functional import scaled_dot_product_attention

from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.recipe import Input, Machine
from biomistral.run import execute
from biomistral.training import pretrain as pretrain_module
from biomistral.training.compute import attention, varlen
from biomistral.training.compute.attention import isolated_attention, use_isolated_attention
from biomistral.training.compute.segments import Segments
from biomistral.training.data.batch import check_model
from biomistral.training.guard import check_corpus, check_model_folder
from biomistral.training.settings import PretrainSettings
from tiny import make_model
from training_inputs import make_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("kernels") / "model")


@pytest.fixture(scope="module")
def corpus(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("kernels") / "corpus", model)


def by_definition(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
                  max_q: int, max_k: int, *, scale: float | None, window_size: tuple[int, int],
                  enable_gqa: bool) -> torch.Tensor:
    """What torch documents of its kernel, with a mask over all: rows (tokens, heads, head_dim), borders, window to the left."""
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_q.equal(cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert int(cu_seq_q[-1]) == len(query)
    left, right = window_size
    assert right == 0
    owner = torch.bucketize(torch.arange(len(query)), cu_seq_q[1:], right=True)
    back = torch.arange(len(query))[:, None] - torch.arange(len(query))[None, :]
    mask = (owner[:, None] == owner[None, :]) & (back >= 0) & (back <= (len(query) if left < 0 else left))
    rows = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    output: torch.Tensor = scaled_dot_product_attention(*rows, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    return output[0].transpose(0, 1)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "fits", lambda query, dropout: not dropout)
    monkeypatch.setattr(torch_varlen, "varlen_attn", by_definition)


@pytest.mark.parametrize("lengths", [[40], [7, 20, 1, 12], [1, 1, 38]])
@pytest.mark.parametrize("window", [None, 5, 20, 64])
@pytest.mark.parametrize("heads", [2, 6])
def test_one_call_is_what_the_segments_are_one_by_one(lengths: list[int], window: int | None, heads: int,
                                                      as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, number, 40, 16, generator=draw, requires_grad=True) for number in (heads, 2, 2)]
    weight = torch.randn(1, 40, heads, 16, generator=draw)

    def run() -> list[torch.Tensor]:
        output, _ = isolated_attention(torch.nn.Identity(), *inputs, None, 0.3, segments=Segments(lengths), sliding_window=window)
        return [output, *torch.autograd.grad(output, inputs, weight)]

    found = run()
    monkeypatch.setattr(attention, "fits", lambda query, dropout: False)
    for mine, theirs in zip(found, run(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_an_older_kernel_shares_keys_untold(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 has no ``enable_gqa``."""

    def older(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
              max_q: int, max_k: int, *, scale: float | None, window_size: tuple[int, int]) -> torch.Tensor:
        return by_definition(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size,
                             enable_gqa=True)

    inputs = [torch.randn(1, number, 12, 16, generator=torch.Generator().manual_seed(0)) for number in (6, 2, 2)]
    wanted, _ = isolated_attention(torch.nn.Identity(), *inputs, None, segments=Segments([5, 7]))
    monkeypatch.setattr(torch_varlen, "varlen_attn", older)
    found, _ = isolated_attention(torch.nn.Identity(), *inputs, None, segments=Segments([5, 7]))
    torch.testing.assert_close(found, wanted)


def test_torch_s_kernel_takes_what_it_is_given() -> None:
    """Its own signature, which the tests above put something else in the place of."""
    signature = inspect.signature(torch_varlen.varlen_attn)
    rows = torch.zeros(1, 1, 8)
    told = {"enable_gqa": False} if varlen._has_to_be_told(torch_varlen.varlen_attn) else {}
    given = signature.bind(rows, rows, rows, rows, rows, 1, 1, scale=None, window_size=(-1, 0), **told).arguments
    assert list(given)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert "enable_gqa" in given or "enable_gqa" not in signature.parameters


def test_borders_are_copied_once() -> None:
    segments = Segments([3, 1, 5])
    device = torch.device("cpu")
    assert segments.borders(device).tolist() == [0, 3, 4, 9]
    assert segments.borders(device) is segments.borders(device)
    assert segments.longest == 5


def test_a_cpu_never_gets_the_kernel() -> None:
    assert not varlen.fits(torch.zeros(1, 2, 4, 64, dtype=torch.bfloat16), 0.0)
    assert varlen.kernel_is_there()


def test_a_model_is_checked_against_transformers(model: Path, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_model(model, torch.float32)
    use_isolated_attention(trained)
    chosen = trained.config._attn_implementation
    check_model(trained, torch.device("cpu"))
    assert trained.config._attn_implementation == chosen
    with monkeypatch.context() as patch:  # isolated, but its scores are scaled wrongly: only transformers tells
        patch.setattr(torch_varlen, "varlen_attn", lambda *rows, scale, **named: by_definition(*rows, scale=9.0, **named))
        with pytest.raises(UserError, match="attention as computed here on cpu is not what transformers computes"):
            check_model(trained, torch.device("cpu"))

    def leaks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, *rest: Any,
              **named: Any) -> torch.Tensor:
        one = torch.tensor([0, len(query)], dtype=torch.int32)
        return by_definition(query, key, value, one, one, len(query), len(query), **named)

    monkeypatch.setattr(torch_varlen, "varlen_attn", leaks)
    with pytest.raises(UserError, match="a document changes what is computed for the next one"):
        check_model(trained, torch.device("cpu"))


# ---- compiled layers ------------------------------------------------------------------------------------------------


def settings_of(model: Path, corpus: Path, **changes: Any) -> PretrainSettings:
    return PretrainSettings(model=Input(model), corpus=Input(corpus), **{"max_steps": 2, "batch_sequences": 2, **changes})


def test_without_a_compiler_nothing_is_begun(model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(pretrain_module, "open_model", lambda *ignored: pytest.fail("the model was about to be read"))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and g\+\+ or clang\+\+ or c\+\+ is not there"):
        execute(settings_of(model, corpus, compile=True), tmp_path / "out", Machine(device="cpu"))
    monkeypatch.setenv("CXX", "my-c++")
    with pytest.raises(UserError, match=r"and my-c\+\+ is not there; install g\+\+, or set compile to false"):
        execute(settings_of(model, corpus, compile=True), tmp_path / "out", Machine(device="cpu"))


@pytest.mark.parametrize("how", ["full", "selective"])
def test_compiled_layers_give_the_same_losses(how: str, model: Path, corpus: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Through dynamo and autograd, without the time that building kernels takes; in backward a layer is computed again."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled(self, backend=counter))
    losses = []
    for number, change in enumerate(({}, {"compile": True, "gradient_checkpointing": how})):
        made = execute(settings_of(model, corpus, max_steps=3, compute_dtype="float32", **change), tmp_path / str(number),
                       Machine(device="cpu"))
        rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert 0 < counter.frame_count <= 16  # before and after attention, first and changed length, with and without gradient


# ---- refused before any work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rope", "positions"), [
    ({"rope_type": "default", "rope_theta": 1e4}, 512), ({"rope_type": "linear", "factor": 4.0}, 2048),
    ({"type": "dynamic", "factor": 2.0}, 1024), ({"rope_type": "yarn", "factor": 8.0}, 4096),
    ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
    ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 512)])
def test_rope_scaling_gives_positions(model: Path, tmp_path: Path, rope: dict[str, Any], positions: int) -> None:
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    check_model_folder(folder, positions)
    with pytest.raises(UserError, match=f"the model has {positions} positions, sequences have {positions + 1} tokens"):
        check_model_folder(folder, positions + 1)


@pytest.mark.parametrize("change", [{"vocab_size": 65_537}, {"dtype": "int16"}])
def test_a_vocabulary_the_shards_cannot_hold(model: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    corpus = make_corpus(tmp_path / "corpus", model)
    packing = json.loads((corpus / "packing.json").read_text())
    (corpus / "packing.json").write_text(json.dumps({**packing, **change}))
    with pytest.raises(UserError, match=r"packing\.json: a vocabulary of \d+ entries in shards of u?int16, which cannot hold it"):
        check_corpus(corpus, model)


def test_a_warm_up_without_end(model: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="warmup_steps 3, but the training has 3 steps; lower it"):
        execute(settings_of(model, corpus, max_steps=3, warmup_steps=3), tmp_path / "out", Machine(device="cpu"))
    execute(settings_of(model, corpus, max_steps=3, warmup_steps=2), tmp_path / "out", Machine(device="cpu"))


def test_a_batch_that_cannot_be_divided(model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from biomistral.training import start
    from biomistral.training.parallel import Group

    monkeypatch.setattr(start, "joined", lambda device: nullcontext(Group(0, 4, device)))
    with pytest.raises(UserError, match="batch_sequences 2 cannot be divided among 4 processes; raise it, or start fewer"):
        execute(settings_of(model, corpus), tmp_path / "out", Machine(device="cpu"))


