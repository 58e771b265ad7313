"""Several processes under torchrun do what one does: the losses to float32 rounding, and one artifact."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny import make_model
from training_inputs import make_corpus, make_examples

COMMON = ["--learning-rate", "5e-3", "--max-steps", "5", "--batch-sequences", "3", "--evaluate-steps", "2",
          "--micro-batch-tokens", "64", "--compute-dtype", "float32", "--output-dtype", "float32"]


DIE = """
import os, signal, sys
from biomistral import cli
from biomistral.training.metrics import MetricsLog
add = MetricsLog.add
def patched(self, row):
    if row["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, row)
MetricsLog.add = patched
cli.main()
"""


def launch(processes: int, *arguments: str,
           program: tuple[str, ...] = ("-m", "biomistral.cli")) -> subprocess.CompletedProcess[str]:
    """The real command line, in one process or as many as torchrun starts."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, "-W", "ignore", *torchrun, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())["facts"]
    return found


def assert_alike(one: Path, several: Path) -> None:
    """Losses, held-out losses, norms and rates of each step, and then the weights."""
    assert len(rows(one)) == len(rows(several)) > 5
    for expected, found in zip(rows(one), rows(several), strict=True):
        for name in ("step", "tokens", "loss", "gradient_norm", "learning_rate", "heldout_loss", "heldout_bits_per_byte"):
            assert (name in found) is (name in expected)
            assert found.get(name, 0) == pytest.approx(expected.get(name, 0), rel=2e-5), (name, expected["step"])
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, several))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, what it is trained on, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("parallel")
    model = make_model(folder / "model", tied=False)
    make_corpus(folder / "corpus", model)
    make_examples(folder / "train.jsonl")
    done = launch(1, *pretraining(folder), "--out", str(folder / "one"))
    assert done.returncode == 0, done.stderr
    return folder


def pretraining(folder: Path) -> list[str]:
    return ["pretrain", "--model", str(folder / "model"), "--corpus", str(folder / "corpus"), *COMMON]


@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_two_processes_give_the_loss_of_one(here: Path, parallel: str) -> None:
    """Steps of three sequences, so the two processes' parts differ; one artifact, said once."""
    out = here / parallel
    done = launch(2, *pretraining(here), "--parallel", parallel, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("pretrain") == 1
    assert_alike(here / "one", out)
    assert (facts(out)["processes"], facts(out)["parallel"]) == (2, parallel)
    assert [path.name for path in here.glob(f".{parallel}.*")] == []


def test_the_number_of_processes_may_change(here: Path, tmp_path: Path) -> None:
    """Two processes that hold parts are killed after a checkpoint; one process that holds all goes on from it."""
    (tmp_path / "die.py").write_text(DIE)
    arguments = [*pretraining(here), "--checkpoint-steps", "2", "--out", str(tmp_path / "out")]
    pieces = [*arguments, "--parallel", "fsdp"]
    assert launch(2, *pieces, program=(str(tmp_path / "die.py"),)).returncode != 0
    assert [path.name for path in tmp_path.glob(".out.*.partial/checkpoints/*")] == ["step-00000002"]
    done = launch(1, *pieces)
    assert done.returncode == 0, done.stderr
    assert "resuming after step 2 of 5" in done.stderr
    assert_alike(here / "one", tmp_path / "out")


def test_sharded_adapters_with_recomputed_activations(here: Path) -> None:
    """Frozen and trained weights in one layer, an embedding tied to the head, layers gathered again in backward."""
    tied = make_model(here / "tied")
    arguments = ["finetune", "--model", str(tied), "--train", str(here / "train.jsonl"), "--lora-dropout", "0", *COMMON,
                 "--sequence-length", "32", "--epochs", "9", "--gradient-checkpointing"]
    for processes, extra in ((1, []), (2, ["--parallel", "fsdp"])):
        done = launch(processes, *arguments, *extra, "--out", str(here / f"lora-{processes}"))
        assert done.returncode == 0, done.stderr[-3000:]
    assert_alike_adapters(here / "lora-1", here / "lora-2")


def assert_alike_adapters(one: Path, several: Path) -> None:
    assert [row.get("loss", 0) for row in rows(several)] == pytest.approx([row.get("loss", 0) for row in rows(one)], rel=2e-5)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        expected, found = load_file(one / name), load_file(several / name)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-3, msg=key)


def test_a_refusal_is_one_line(here: Path, tmp_path: Path) -> None:
    done = launch(2, *pretraining(here), "--parallel", "none", "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert done.stderr.count("biomistral: parallel: none, but 2 processes were started") == 1
    assert list(tmp_path.iterdir()) == []
