"""Limited hours: when the end is decided, how the learning rate falls to it, and that a cut-off run keeps to it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from biomistral.errors import UserError
from biomistral.run import execute
from biomistral.training.ending import Ending, early_ending
from biomistral.training.keeping.checkpoint import Checkpoints
from biomistral.training.settings import PretrainSettings
from tiny import make_model
from training_inputs import interrupted_in_step, make_corpus


def test_decided_with_a_fifth_of_the_hours_left() -> None:
    """One hour, 8 s a step: at 2,880 s 360 steps are done, and 720 s have room for 90 more."""
    assert early_ending(None, 1e9, 10, 100) is None
    assert early_ending(1.0, 2879.0, 360, 1000) is None
    assert early_ending(1.0, 2880.0, 360, 1000) == Ending(360, 450)
    assert early_ending(1.0, 2880.0, 360, 450) is None
    assert early_ending(1.0, 9000.0, 360, 1000) == Ending(360, 361)
    assert [Ending(360, 364).factor(step) for step in range(360, 364)] == [1.0, 0.75, 0.5, 0.25]


def test_a_cut_off_run_ends_where_it_was_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose hours end at once decides after its first step, is interrupted, and goes on twice from there: both end at
    the same step, with the same bits, whatever the clock says then."""
    model = make_model(tmp_path / "model")
    settings = PretrainSettings(model=str(model), corpus=str(make_corpus(tmp_path / "corpus", model)), learning_rate=5e-3,
                                max_steps=50, batch_sequences=2, epochs=50, schedule="constant", max_hours=1.0)
    monkeypatch.setattr("biomistral.training.loop.early_ending", lambda *ignored: Ending(2, 6) if ignored[2] == 2 else None)
    (tmp_path / "first").mkdir()
    with interrupted_in_step(3):
        execute(settings, tmp_path / "first" / "out")
    monkeypatch.undo()
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    first, second = (execute(settings, tmp_path / name / "out") for name in ("first", "second"))
    assert first.manifest["counts"]["steps"] == 6
    assert first.manifest["counts"]["sequences"] == 12
    assert first.manifest["facts"]["max_hours"] == {"decided_after_step": 2, "planned_steps": 50}
    assert first.manifest["files"]["model.safetensors"] == second.manifest["files"]["model.safetensors"]
    rows = [json.loads(line) for line in (first.path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert rates == pytest.approx([5e-3, 5e-3, 5e-3, 3.75e-3, 2.5e-3, 1.25e-3])


def test_a_full_disk_is_said_before_a_checkpoint_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.check_space(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"a checkpoint takes 0\.00 GB, this disk has 0\.00 GB left"):
        checkpoints.check_space(1000)


def test_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=3)
    (tmp_path / "checkpoints" / ".step-00000009").mkdir(parents=True)
    for step in range(1, 6):
        checkpoints.save(step, {"weight": torch.zeros(2)}, {"seconds": 1.5})
    found = checkpoints.load()
    assert found is not None
    assert (found.step, found.notes) == (5, {"seconds": 1.5})
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [f"step-0000000{step}" for step in (3, 4, 5)]
