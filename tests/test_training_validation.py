"""A benchmark asked while training: the scores of evaluation, weights that it does not touch, the best step's model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.recipe import Input, Machine, parse
from biomistral.run import execute
from biomistral.training.settings import FinetuneSettings, PretrainSettings
from biomistral.training.watching.metrics import MetricsLog
from biomistral.training.watching.validation import Validation, best_step
from tiny import make_model
from tiny_questions import make_questions
from training_inputs import make_corpus

CPU = Machine(device="cpu")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    make_model(folder / "model", tied=False)
    make_questions(folder / "questions.parquet")
    return folder


def settings(here: Path, **changes: Any) -> FinetuneSettings:
    chosen = {"model": str(here / "model"), "train": str(here / "questions.parquet"), "max_steps": 6, "batch_sequences": 2,
              "learning_rate": 5e-3, "schedule": "constant", "sequence_length": 256, "method": "full", "form": "cloze",
              "compute_dtype": "float32", "output_dtype": "float32", "evaluate_sequences": 0,
              "validate_on": str(here / "questions.parquet"), "validate_protocol": "cloze-mean", "validate_steps": 2}
    return parse(FinetuneSettings, chosen | changes)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def validations(out: Path) -> list[dict[str, Any]]:
    """Rows of validations, without what differs from run to run."""
    return [{name: value for name, value in row.items() if name != "validation_seconds"} for row in rows_of(out)
            if "validation_accuracy" in row]


@pytest.mark.parametrize("protocol", ["letters-0shot", "letters-3shot", "medconceptsqa-4shot", "cloze-sum"])
def test_the_scores_are_those_of_evaluation(protocol: str, here: Path, tmp_path: Path) -> None:
    """The first row is the score of the model given, the last one of the model written: both by the evaluate stage."""
    chosen = {"validate_protocol": protocol, "validate_tasks": ["signs"], "validate_limit": 5, "method": "lora", "seed": 3}
    execute(settings(here, **chosen), tmp_path / "out", CPU)
    found = validations(tmp_path / "out")
    assert [row["step"] for row in found] == [0, 2, 4, 6]
    for row, model in ((found[0], here / "model"), (found[-1], tmp_path / "out")):
        name = f"results-{row['step']}"
        asked = EvaluateSettings(model=Input(model), benchmark=Input(here / "questions.parquet"), split="validation", limit=5,
                                 tasks=["signs"], protocols=[protocol], seed=3, shot_sets=1, dtype="float32")
        execute(asked, tmp_path / name, CPU)
        expected = json.loads((tmp_path / name / "results.json").read_text())["protocols"][protocol]["overall"]
        assert expected["n"] == 5
        assert row["validation_accuracy"] == expected["accuracy"]
        assert [row["validation_low"], row["validation_high"]] == pytest.approx(expected["interval"])
        assert ("validation_letter_mass" in row) is protocol.startswith(("letters", "medconceptsqa"))
        assert row.get("validation_letter_mass", 0) == pytest.approx(expected["letter_mass"] or 0, rel=1e-4)
        answers = pq.read_table(tmp_path / name / "answers.parquet").to_pylist()
        chances = [answer["probabilities"]["ABCD".index(answer["answer"])] for answer in answers]
        assert row["validation_probability"] == pytest.approx(sum(chances) / 5, rel=1e-4)
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["validation"]
    assert (facts["questions"], facts["tasks"], facts["split"], facts["exported_step"]) == (5, ["signs"], "validation", 6)
    assert facts["after"]["accuracy"] == found[-1]["validation_accuracy"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_asking_changes_no_weight(method: str, here: Path, tmp_path: Path) -> None:
    """With an adapter that drops out and recomputed activations, the weights with and without it are the same bits."""
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    common = {"method": method, "lora": {"dropout": 0.3}, "gradient_checkpointing": True, "compute_dtype": "bfloat16"}
    execute(settings(here, **common, validate_steps=1), tmp_path / "asked", CPU)
    execute(settings(here, **common, validate_on=None, validate_steps=0), tmp_path / "plain", CPU)
    assert (tmp_path / "asked" / "model.safetensors").read_bytes() == (tmp_path / "plain" / "model.safetensors").read_bytes()
    losses = [[row["loss"] for row in rows_of(tmp_path / name) if "loss" in row] for name in ("asked", "plain")]
    assert losses[0] == losses[1]


def test_pretraining_asks_too(here: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", here / "model")
    execute(PretrainSettings(model=Input(here / "model"), corpus=Input(corpus), max_steps=2, validate_limit=3,
                             validate_on=Input(here / "questions.parquet")), tmp_path / "out", CPU)
    assert [row["step"] for row in validations(tmp_path / "out")] == [0, 2]


# ---- the best step --------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Accuracies by step, in place of those measured; the questions are asked all the same."""
    accuracies: dict[int, float] = {}
    add = MetricsLog.add

    def patched(self: MetricsLog, row: dict[str, Any]) -> None:
        if "validation_accuracy" in row and accuracies:
            row["validation_accuracy"] = accuracies[row["step"]]
        add(self, row)
    monkeypatch.setattr(MetricsLog, "add", patched)
    return accuracies


@pytest.fixture(scope="module")
def three_steps(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model after three steps, for its bytes."""
    out = tmp_path_factory.mktemp("three") / "out"
    return execute(settings(here, max_steps=3, validate_on=None, validate_steps=0), out, CPU).path


def test_the_best_step_is_written(here: Path, three_steps: Path, scripted: dict[int, float], tmp_path: Path) -> None:
    """A better score before any training does not count."""
    scripted |= {0: 0.9, 1: 0.2, 2: 0.4, 3: 0.7, 4: 0.6, 5: 0.5, 6: 0.1}
    execute(settings(here, keep_best=True, validate_steps=1), tmp_path / "out", CPU)
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["validation"]
    assert (facts["before"]["accuracy"], facts["after"]["accuracy"]) == (0.9, 0.1)
    assert facts["best"]["step"] == facts["exported_step"] == 3
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (three_steps / "model.safetensors").read_bytes()
    assert not list(tmp_path.rglob("checkpoints"))


def test_of_equal_steps_the_surer_is_best_then_the_first() -> None:
    def row(step: int, accuracy: float, probability: float) -> dict[str, float]:
        return {"step": step, "validation_accuracy": accuracy, "validation_probability": probability}
    rows = [row(0, 1.0, 0.9), {"step": 1, "loss": 2.0}, row(1, 0.5, 0.3), row(2, 0.5, 0.4), row(3, 0.5, 0.4), row(4, 0.4, 0.9)]
    assert best_step(rows) == 2
    assert best_step(rows[:2]) is None


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_resumed_run_writes_the_same_best(cut: int, here: Path, three_steps: Path, scripted: dict[int, float], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after a step, before its checkpoint: what was best by then is still there, what was better since is not."""
    scripted |= {0: 0.0, 1: 0.5, 2: 0.3, 3: 0.7, 4: 0.2, 5: 0.1, 6: 0.6}
    chosen = settings(here, keep_best=True, validate_steps=1, checkpoint_steps=2, keep_last=1)
    ask = Validation.ask

    def interrupted(*arguments: Any) -> dict[str, float]:
        found = ask(*arguments)
        if len(asked) == cut:
            raise KeyboardInterrupt
        asked.append(found)
        return found
    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(chosen, tmp_path / "out", CPU)
    kept = {path.name for path in tmp_path.glob(".out.*/checkpoints/best/step-*")}
    assert kept == {2: {"step-00000001"}, 4: {"step-00000001", "step-00000003"}, 6: {"step-00000003"}}[cut]
    execute(chosen, tmp_path / "out", CPU)
    assert [row["step"] for row in validations(tmp_path / "out")] == list(range(7))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (three_steps / "model.safetensors").read_bytes()


TWO = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from biomistral.recipe import Machine
from biomistral.run import execute
from biomistral.training import finetune
from biomistral.training.keeping import best
from biomistral.training.settings import FinetuneSettings
from forked import together
here = Path(sys.argv[2])
for parallel in ("fsdp", "data"):
    chosen = FinetuneSettings.model_validate_json(sys.argv[3]).model_copy(update={"parallel": parallel})
    codes = together(2, lambda rank: execute(chosen, here / parallel, Machine(device="cpu")), here / "errors")
    assert codes == [0, 0], (here / "errors").read_text()
"""


def test_two_processes_ask_as_one_does(here: Path, tmp_path: Path) -> None:
    """Batches of unlike numbers of forward passes, shared out; the best step's parts are put together again."""
    chosen = settings(here, max_steps=4, validate_protocol="cloze-sum", validate_steps=1, validate_limit=7,
                      micro_batch_tokens=256, keep_best=True)
    execute(chosen, tmp_path / "one", CPU)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TWO, str(Path(__file__).parent), str(tmp_path),
                           chosen.model_dump_json()], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one = validations(tmp_path / "one")
    exported = json.loads((tmp_path / "one" / "manifest.json").read_text())["facts"]["validation"]["exported_step"]
    weights = load_file(tmp_path / "one" / "model.safetensors")
    for parallel in ("fsdp", "data"):
        two, facts = (validations(tmp_path / parallel), json.loads((tmp_path / parallel / "manifest.json").read_text())["facts"])
        assert (facts["processes"], facts["parallel"], facts["validation"]["exported_step"]) == (2, parallel, exported)
        for expected, found in zip(one, two, strict=True):
            assert found["validation_accuracy"] == expected["validation_accuracy"]
            assert found["validation_probability"] == pytest.approx(expected["validation_probability"], rel=1e-4)
        found = load_file(tmp_path / parallel / "model.safetensors")
        assert all((found[name] - tensor).abs().max() < 2e-4 for name, tensor in weights.items())


# ---- what is refused, and where rows go -----------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "problem"), [
    ({"validate_split": "test"}, "is what the benchmark asks in the end"),
    ({"validate_split": "Test_1", "validate_on_test": True, "keep_best": True}, "would choose the model on the test"),
    ({"validate_on": None, "validate_steps": 0, "keep_best": True}, "keep_best is set, but no benchmark"),
    ({"validate_on": None}, "validate_steps is set, but no benchmark"),
    ({"validate_split": "valid"}, r"questions\.parquet: has no questions of validate_split 'valid'; did you mean 'validation'"),
    ({"validate_tasks": "sign"}, "task 'sign': .*did you mean 'signs'"),
    ({"validate_split": "train", "form": "letters"}, "asked in the test or for validation too")])
def test_what_cannot_be_asked_is_refused_before_any_work(changes: dict[str, Any], problem: str, here: Path,
                                                         tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        execute(settings(here, **changes), tmp_path / "out", CPU)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_test_may_be_looked_at_when_that_is_said(here: Path, tmp_path: Path) -> None:
    execute(settings(here, validate_split="test", validate_on_test=True, max_steps=1), tmp_path / "out", CPU)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["validation"]["split"] == "test"


def test_a_prompt_longer_than_the_model_reads_is_refused(here: Path, tmp_path: Path) -> None:
    model = shutil.copytree(here / "model", tmp_path / "short")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    with pytest.raises(UserError, match=r"its prompt under letters-3shot has \d+ tokens, this model reads 64"):
        execute(settings(here, model=str(model), sequence_length=64, validate_protocol="letters-3shot"), tmp_path / "out", CPU)


class Tracker(ModuleType):
    """Stands in for wandb: keeps what it is sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sent: list[tuple[int, dict[str, Any]]] = []

    def init(self, **options: Any) -> None:
        assert options["resume"] == "allow"

    def log(self, values: dict[str, Any], step: int) -> None:
        self.sent.append((step, values))

    def finish(self) -> None:
        pass


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.setattr("biomistral.training.watching.sinks.importlib.util.find_spec", lambda package: object())
    return tracker


def test_sinks_get_validations_too(here: Path, tracker: Tracker, tmp_path: Path) -> None:
    """A step has up to three rows: its own, the held-out loss, the validation; each arrives, once."""
    chosen = settings(here, validation=str(here / "questions.parquet"), evaluate_sequences=4, evaluate_steps=2)
    execute(chosen, tmp_path / "out", Machine(device="cpu", log_to=("wandb",)))
    assert [(step, sorted(values)) for step, values in tracker.sent] == [
        (row["step"], sorted(set(row) - {"step"})) for row in rows_of(tmp_path / "out")]
    assert [step for step, values in tracker.sent if "validation_low" in values] == [0, 2, 4, 6]
