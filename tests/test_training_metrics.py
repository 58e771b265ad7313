"""Looking at a training: rows, speed, utilisation, time left; and the places besides ``metrics.jsonl`` they go to."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from biomistral.artifact import Artifact
from biomistral.errors import UserError
from biomistral.recipe import Input, Machine
from biomistral.run import execute
from biomistral.training.foresight.peaks import gpu_peak, peak_flops
from biomistral.training.settings import PretrainSettings
from biomistral.training.watching.meter import Meter, duration, words
from biomistral.training.watching.metrics import MetricsLog
from tiny import make_model
from training_inputs import make_corpus


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    folder = tmp_path_factory.mktemp("metrics")
    model = make_model(folder / "model")
    return {"model": Input(model), "corpus": Input(make_corpus(folder / "corpus", model))}


def pretrain(inputs: dict[str, Input], out: Path, *log_to: str) -> Artifact:
    settings = PretrainSettings(**inputs, max_steps=6, batch_sequences=2, checkpoint_steps=2, evaluate_steps=3,
                                compute_dtype="float32")
    return execute(settings, out, Machine(device="cpu", log_to=log_to))


def cut_off(step: int, inputs: dict[str, Input], out: Path, *log_to: str) -> None:
    """Train until this step's row has been written; the process ends (as the loop sees it) before its checkpoint."""
    add = MetricsLog.add

    def patched(self: MetricsLog, row: dict[str, Any]) -> None:
        add(self, row)
        if row["step"] == step and "loss" in row:
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "add", patched)
        with pytest.raises(KeyboardInterrupt):
            pretrain(inputs, out, *log_to)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# ---- speed and utilisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "teraflops"), [
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA GH200 480GB", 989),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("NVIDIA L40", 181),
    ("NVIDIA GeForce RTX 4090", 165.2), ("NVIDIA A10G", 70), ("NVIDIA A10", 125), ("NVIDIA H20", 148),
    ("Quadro K4000", None), ("NVIDIA A1000 Laptop", None)])
def test_a_gpu_s_peak_is_found_by_its_name(name: str, teraflops: float | None) -> None:
    found = gpu_peak(name)
    assert found is None if teraflops is None else found == teraflops * 1e12


def test_a_meter_against_numbers_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomistral.training.watching.meter.peak_flops", lambda device, dtype: 1e12)
    meter = Meter(2e9, torch.device("cpu"), torch.bfloat16, devices=2)
    first, second = meter.read(100, 0.5, steps_left=10), meter.read(100, 1.5, steps_left=9)
    assert first["tokens_per_second"] == 200
    assert first["utilisation"] == pytest.approx(100 * 2e9 / 0.5 / 2e12)
    assert (first["seconds_left"], second["seconds_left"]) == (5.0, 9.0)  # 10 steps of 0.5 s, 9 of the mean of 1 s
    assert words({"loss": 2.0, **first}).startswith("loss 2.000, 200 tokens/s, 20% of peak, ")
    assert meter.forecast(2e12 * 0.4 * 3600 * 10) == "about 10 h 0 min at 40% of the 2 TFLOP/s of this CPU (measured)"


def test_an_unknown_peak_is_left_out_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomistral.training.watching.meter.peak_flops", lambda device, dtype: None)
    meter = Meter(2e9, torch.device("cpu"), torch.bfloat16)
    assert "utilisation" not in meter.read(100, 0.5, 1)
    assert "not known" in meter.forecast(1e15)


def test_a_cpu_s_peak_is_measured_once() -> None:
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak is not None
    assert 1e8 < peak < 1e14
    assert peak_flops(torch.device("cpu"), torch.float32) == peak


def test_durations_read_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0, 40.4, 720, 12_000)] == ["0 s", "40 s", "12 min", "3 h 20 min"]


def test_every_step_s_row_has_what_a_person_looks_for(inputs: dict[str, Input], tmp_path: Path) -> None:
    out = pretrain(inputs, tmp_path / "out")
    steps = [row for row in rows_of(out.path) if "loss" in row]
    flop_per_token = out.manifest["facts"]["flop"] / out.manifest["counts"]["tokens"]
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak is not None
    for row in steps:
        assert {"loss", "tokens", "learning_rate", "gradient_norm", "seconds", "tokens_per_second", "peak_memory_bytes",
                "utilisation", "seconds_left"} <= set(row)
        assert row["utilisation"] == pytest.approx(row["tokens_per_second"] * flop_per_token / peak, rel=1e-3)
        assert row["peak_memory_bytes"] > 1e7
    assert steps[-1]["seconds_left"] == 0


# ---- sinks ----------------------------------------------------------------------------------------------------------


class Recorder(ModuleType):
    """Stands in for trackio or wandb: keeps what a server would."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> None:
        self.inits.append(options)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> Recorder:
    module = Recorder(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("biomistral.training.watching.sinks.importlib.util.find_spec", lambda package: object())
    return module


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_gets_every_row_once_though_the_training_was_cut_off(name: str, inputs: dict[str, Input], tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at step 3, gone on from 2; cut off at 5, gone on from 4: steps 3 and 5 are computed twice, sent once."""
    tracker = stand_in(monkeypatch, name)
    for step in (3, 5):
        cut_off(step, inputs, tmp_path / "out", name)
    out = pretrain(inputs, tmp_path / "out", name)
    assert [(step, sorted(values)) for step, values in tracker.logged] == [
        (row["step"], sorted(set(row) - {"step"})) for row in rows_of(out.path)]
    losses = {step: values["loss"] for step, values in tracker.logged if "loss" in values}
    assert losses == {row["step"]: row["loss"] for row in rows_of(out.path) if "loss" in row}
    assert tracker.finished == len(tracker.inits) == 3
    assert {json.dumps([init["name"], init["resume"], init.get("id")]) for init in tracker.inits} == {
        json.dumps([f"out-{out.key[:8]}", "allow", out.key[:16] if name == "wandb" else None])}
    assert tracker.inits[0]["config"]["max_steps"] == 6


def test_a_tracker_asked_for_only_on_resume_gets_the_earlier_rows(inputs: dict[str, Input], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(4, inputs, tmp_path / "out")
    tracker = stand_in(monkeypatch, "wandb")
    out = pretrain(inputs, tmp_path / "out", "wandb")
    assert [step for step, _ in tracker.logged] == [row["step"] for row in rows_of(out.path)]


def test_tensorboard_files_hold_the_log_once(inputs: dict[str, Input], tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cut_off(5, inputs, tmp_path / "out", "tensorboard")
    out = pretrain(inputs, tmp_path / "out", "tensorboard")
    events = reader.EventAccumulator(str(out.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for name in ("loss", "heldout_loss", "heldout_bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(row["step"], row[name]) for row in rows_of(out.path) if name in row]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_where_rows_go_is_no_part_of_the_key(inputs: dict[str, Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "trackio")
    assert pretrain(inputs, tmp_path / "a", "trackio").key == pretrain(inputs, tmp_path / "b").key


def test_a_missing_package_is_named_before_any_work(inputs: dict[str, Input], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomistral.training.watching.sinks.importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"log_to wandb: .*not installed.*pip install 'biomistral\[wandb\]'"):
        pretrain(inputs, tmp_path / "out", "wandb")
    assert list(tmp_path.iterdir()) == []


def test_without_the_option_nothing_is_sent(inputs: dict[str, Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [stand_in(monkeypatch, name) for name in ("trackio", "wandb")]
    out = pretrain(inputs, tmp_path / "out")
    assert not any(module.inits for module in modules)
    assert not (out.path / "tensorboard").exists()
