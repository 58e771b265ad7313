"""A run killed anywhere and run again ends in the same bits: weights, adapter and log."""

import errno
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from biomistral.run import execute
from biomistral.training.keeping import checkpoint, parts
from biomistral.training.keeping.checkpoint import Checkpoints
from biomistral.training.settings import PretrainSettings
from biomistral.training.watching.metrics import MetricsLog
from tiny import make_model
from training_inputs import interrupted_in_step, make_corpus, make_examples

SCRIPT = '''
import hashlib, json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from biomistral.run import execute
from biomistral.training import finetune, loop, pretrain
from biomistral.training.keeping import checkpoint
from biomistral.training.watching import metrics
from biomistral.training.settings import FinetuneSettings, PretrainSettings

def die(*ignored, **also_ignored):
    os.kill(os.getpid(), signal.SIGKILL)

def after_step(step):
    add = metrics.MetricsLog.add
    def patched(self, row):
        add(self, row)
        if row["step"] == step and "loss" in row:
            die()
    metrics.MetricsLog.add = patched

def half_written_log(step):
    add = metrics.MetricsLog.add
    def patched(self, row):
        if row["step"] == step:
            with self.path.open("a") as stream:
                stream.write(json.dumps(row)[:20])
            die()
        add(self, row)
    metrics.MetricsLog.add = patched

def half_written_checkpoint():
    def patched(folder, state, group):
        (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half of a state")
        die()
    checkpoint.write_state = patched

def unsealed_checkpoint():
    checkpoint.write_json = die

def before_old_checkpoint_is_deleted():
    rmtree = checkpoint.shutil.rmtree
    checkpoint.shutil.rmtree = lambda path, **options: die() if Path(path).name == "step-00000002" else rmtree(path, **options)

def model_being_written():
    loop_write = pretrain.write_model
    def patched(model, work, folder):
        (work.path / "model.safetensors").write_bytes(b"half")
        die()
    pretrain.write_model = finetune.write_model = patched

def nothing():
    pass

def damage_newest(out):
    newest = sorted(out.parent.glob(f".{out.name}.*.partial/checkpoints/step-*/*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    return newest.parent.name

def run(settings, out, trouble):
    """Run in a child process in which `trouble` waits; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        trouble()
        execute(settings, out)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def result(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "seconds_left", "tokens_per_second", "utilisation", "peak_memory_bytes")
    timeless = [{k: v for k, v in row.items() if k not in timed} for row in rows]
    files = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*"))
             if path.is_file() and path.name not in ("metrics.jsonl", "manifest.json")}
    return {"rows": timeless, "files": files}

here = Path(sys.argv[1])
common = dict(model=str(here / "model"), learning_rate=5e-3, max_steps=9, batch_sequences=2, checkpoint_steps=2,
              evaluate_steps=3, micro_batch_tokens=64)
report = {}
for name, settings in {
        "pretrain": PretrainSettings(corpus=str(here / "corpus"), **common),
        "asynchronous": PretrainSettings(corpus=str(here / "corpus"), asynchronous_checkpoints=True, **common),
        "finetune": FinetuneSettings(train=str(here / "train.jsonl"), sequence_length=64, epochs=9, **common)}.items():
    straight, cut = here / f"{name}-straight", here / f"{name}-cut"
    killed = [run(settings, straight, nothing)]
    for trouble in (lambda: after_step(1), half_written_checkpoint, lambda: after_step(5), unsealed_checkpoint,
                    lambda: half_written_log(6), before_old_checkpoint_is_deleted):
        killed.append(run(settings, cut, trouble))
    report[name + "-damaged"] = damage_newest(cut)
    killed.append(run(settings, cut, model_being_written))
    killed.append(run(settings, cut, nothing))
    report[name] = {"killed": killed, "straight": result(straight), "cut": result(cut)}
print(json.dumps(report))
'''


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = tmp_path_factory.mktemp("resume")
    model = make_model(here / "model")
    make_corpus(here / "corpus", model)
    make_examples(here / "train.jsonl")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(here)], capture_output=True, text=True,
                          timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", ["pretrain", "asynchronous", "finetune"])
def test_killed_anywhere_ends_the_same(report: dict[str, Any], stage: str) -> None:
    """Killed after a step, inside a checkpoint's writing (three places), in the log, and in the model's; once a checkpoint
    is damaged besides. The bits of every file are those of the run that was never stopped. Checkpoints that are written
    beside the training may be of an earlier step when it is killed."""
    found = report[stage]
    assert found["killed"] == [False, True, True, True, True, True, True, True, False]
    assert report[f"{stage}-damaged"] == "step-00000006" or stage == "asynchronous"
    assert found["cut"] == found["straight"]
    assert [row["step"] for row in found["cut"]["rows"] if "loss" in row] == list(range(1, 10))
    assert not any(name.startswith("checkpoints") for name in found["cut"]["files"])


def test_written_whether_beside_or_not_the_weights_are_the_same(report: dict[str, Any]) -> None:
    assert report["asynchronous"]["straight"] == report["pretrain"]["straight"]


def test_an_asynchronous_checkpoint_holds_what_was_when_it_was_asked_for(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights go on changing while it is written, and what goes wrong with it is raised in the training."""
    go_on = threading.Event()
    write = checkpoint.write_state
    monkeypatch.setattr(checkpoint, "write_state", lambda *arguments: go_on.wait(60) and write(*arguments))
    checkpoints, weight = Checkpoints(tmp_path / "checkpoints", asynchronous=True), torch.full((3,), 10.0)
    checkpoints.save(10, {"weight": weight}, {"seconds": 1.5})
    weight.fill_(20)
    checkpoints.look()
    assert list(checkpoints.folder.glob("step-*")) == []
    go_on.set()
    checkpoints.wait()
    found, room = checkpoints.load(), {"weight": torch.zeros(3)}
    assert found is not None
    checkpoints.read(found, room)
    assert (found.step, found.notes, room["weight"].tolist()) == (10, {"seconds": 1.5}, [10.0] * 3)
    monkeypatch.setattr(checkpoint, "write_state", fails)
    checkpoints.save(20, {"weight": weight})
    with pytest.raises(OSError, match="no space left"):
        checkpoints.wait()
    assert [path.name for path in checkpoints.folder.glob("step-*")] == ["step-00000010"]


def fails(*ignored: Any) -> None:
    raise OSError(errno.ENOSPC, "no space left")


def test_damaged_checkpoints_are_skipped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    for step in (10, 20, 30):
        checkpoints.save(step, {"weight": torch.full((3,), float(step))})
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000020", "step-00000030"]
    (checkpoints.folder / "step-00000030" / "state.json").write_text("")
    found = checkpoints.load()
    assert found is not None
    room = {"weight": torch.zeros(3)}
    checkpoints.read(found, room)
    assert (found.step, room["weight"].tolist()) == (20, [20.0] * 3)
    next((checkpoints.folder / "step-00000020").glob("*.safetensors")).unlink()
    assert checkpoints.load() is None


def test_log_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "heldout_loss": 2}\n{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n{"step": 3, "lo')
    assert [row["step"] for row in MetricsLog(path, 1).rows] == [0, 1]
    log = MetricsLog(path, 1)
    log.add({"step": 2, "loss": 0.5})
    assert path.read_text().splitlines()[-1] == '{"step": 2, "loss": 0.5}'
    assert len(path.read_text().splitlines()) == 3
    assert MetricsLog(path, 0).rows == []
    assert path.read_text() == ""


def test_an_interruption_keeps_the_last_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model")
    settings = PretrainSettings(model=str(model), corpus=str(make_corpus(tmp_path / "corpus", model)), learning_rate=5e-3,
                                max_steps=6, batch_sequences=2, micro_batch_tokens=64)
    straight = execute(settings, tmp_path / "straight")
    with interrupted_in_step(3):
        execute(settings, tmp_path / "cut")
    assert [path.name for path in tmp_path.glob(".cut.*.partial/checkpoints/*")] == ["step-00000003"]
    again = execute(settings, tmp_path / "cut")
    assert again.manifest["files"]["model.safetensors"] == straight.manifest["files"]["model.safetensors"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_state_of_several_files_is_read_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FILE_BYTES", 100)
    state = {f"weight.{number}": torch.arange(number, number + 10.0).view(5, 2) for number in range(7)}
    state |= {"vector": torch.ones(3), "bytes": torch.arange(5, dtype=torch.uint8)}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    found, room = checkpoints.load(), {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert found is not None
    assert len(list(found.path.glob("*.safetensors"))) == 3
    checkpoints.read(found, room)
    for name, tensor in state.items():
        assert torch.equal(room[name], tensor)
    (found.path / "another.safetensors").write_bytes(b"")
    assert checkpoints.load() is None
