"""Several processes do what one does: the losses to float32 rounding, and one artifact, whoever began it and whoever ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from biomistral.errors import UserError
from biomistral.recipe import Input
from biomistral.training.keeping.checkpoint import Checkpoints
from biomistral.training.parallel import Group
from biomistral.training.settings import FinetuneSettings
from biomistral.training.weights.buckets import Buckets
from tiny import make_model
from training_inputs import make_corpus, make_examples

SCRIPT = '''
import functools, hashlib, json, logging, os, shutil, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from biomistral.errors import UserError
from biomistral.models import skeleton
from biomistral.run import execute
from biomistral import ranks
from biomistral.training import finetune, pretrain
from biomistral.training.watching import metrics
from biomistral.training.weights import masters as weights
from biomistral.training.settings import FinetuneSettings, PretrainSettings
from forked import together

here = Path(sys.argv[2])
common = dict(learning_rate=5e-3, max_steps=5, batch_sequences=5, evaluate_steps=2, micro_batch_tokens=32,
              compute_dtype="float32", output_dtype="float32")
pretraining = PretrainSettings(model=str(here / "model"), corpus=str(here / "corpus"), epochs=9, **common)
finetuning = FinetuneSettings(model=str(here / "tied"), train=str(here / "train.jsonl"), lora=dict(dropout=0.0), epochs=9,
                              sequence_length=32, gradient_checkpointing="full", **common)
adapters = []

def changed(settings, **changes):
    return type(settings).model_validate({**settings.model_dump(), **changes})

def count_reads(out, rank):
    """Have every read from the model's files noted: bytes in all, and the most at a time."""
    reads = []
    def noted(read):
        def wrapped(self, *arguments):
            found = read(self, *arguments)
            tensors = found.values() if isinstance(found, dict) else [found]
            reads.extend(tensor.nbytes for tensor in tensors)
            (here / f"{out}.{rank}.reads").write_text(json.dumps(reads))
            return found
        return wrapped
    skeleton.Weights.read, skeleton.Weights.read_rows = noted(skeleton.Weights.read), noted(skeleton.Weights.read_rows)

def small_buckets(out, rank):
    """Have gradients cross in many buckets, and each process's masters noted when training ends."""
    weights.Buckets = functools.partial(weights.Buckets, elements=5000)
    def noted(self, dtype):
        digest = hashlib.sha256(b"".join(master.numpy().tobytes() for master in self.masters.values())).hexdigest()
        (here / f"{out}.{rank}.masters").write_text(digest)
    weights.MasterWeights.finish = noted

def die_at(step):
    add = metrics.MetricsLog.add
    def patched(self, row):
        if row["step"] == step:
            while not list(self.path.parent.glob("checkpoints/step-*")):
                time.sleep(0.01)  # it is written beside the training
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, row)
    metrics.MetricsLog.add = patched

def run(size, settings, out, kill_at=None):
    def work(rank):
        logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING)
        count_reads(out, rank)
        if out == "data":
            small_buckets(out, rank)
        if kill_at is not None and rank == 0:
            die_at(kill_at)
        try:
            execute(settings, here / out)
        except UserError as error:
            if ranks.says_it():
                print(f"refused: {error}", file=sys.stderr)
            sys.exit(2)
    if size == 1:  # no torchrun: nothing set
        child = os.fork()
        if child == 0:
            os.dup2(os.open(here / f"{out}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            work(0)
            os._exit(0)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
    return together(size, work, here / f"{out}.err")

def copied(out, *names):
    """What was left of an unfinished run, under other names."""
    (left,) = here.glob(f".{out}.*.partial")
    for name in names:
        shutil.copytree(left, left.with_name(left.name.replace(out, name, 1)))

codes = {}
codes["one"] = run(1, pretraining, "one")
codes["data"] = run(2, changed(pretraining, parallel="data"), "data")
codes["fsdp"] = run(2, changed(pretraining, parallel="fsdp"), "fsdp")
halves = changed(pretraining, parallel="hsdp", shard_processes=2, checkpoint_steps=2)
codes["hsdp"] = run(4, halves, "hsdp")
codes["lora-1"] = run(1, finetuning, "lora-1")
codes["lora-2"] = run(2, changed(finetuning, parallel="fsdp"), "lora-2")
tied = changed(finetuning, method="full", gradient_checkpointing="none", compute_dtype="bfloat16")
codes["tied-1"] = run(1, tied, "tied-1")
codes["tied-2"] = run(2, changed(tied, parallel="fsdp"), "tied-2")

parts = changed(pretraining, parallel="fsdp", checkpoint_steps=2, asynchronous_checkpoints=True)
codes["cut"] = run(2, parts, "cut", kill_at=4)
codes["left by two"] = sorted(path.name for path in here.glob(".cut.*.partial/checkpoints/step-*/*"))
copied("cut", "by-one", "by-three", "damaged")
(part,) = here.glob(".damaged.*.partial/checkpoints/step-*/shard-00002-*")
part.write_bytes(part.read_bytes()[:-1] + b"x")
for size, out in ((2, "cut"), (1, "by-one"), (3, "by-three"), (2, "damaged")):
    codes[f"{out}, again"] = run(size, parts, out)
codes["begun-by-one"] = run(1, halves, "begun-by-one", kill_at=4)
codes["begun-by-one, again"] = run(4, halves, "begun-by-one")

codes["none"] = run(2, changed(pretraining, parallel="none"), "none")
codes["odd"] = run(3, halves, "odd")
print(json.dumps(codes))
'''

STRAIGHT = {"data": (2, "data"), "fsdp": (2, "fsdp"), "hsdp": (4, "hsdp")}
RESUMED = {"cut": (2, "fsdp"), "by-one": (1, "data"), "by-three": (3, "fsdp"), "begun-by-one": (4, "hsdp")}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and what it is trained on."""
    folder = tmp_path_factory.mktemp("parallel")
    model = make_model(folder / "model", tied=False)
    make_model(folder / "tied")
    make_corpus(folder / "corpus", model)
    make_examples(folder / "train.jsonl")
    return folder


@pytest.fixture(scope="module")
def codes(here: Path) -> dict[str, list[Any]]:
    """Everything that several processes do, once; the exit codes of each."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent), str(here)],
                          capture_output=True, text=True, timeout=240, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command line in two processes of the real torchrun."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())["facts"]
    return found


def words(here: Path, out: str) -> str:
    return (here / f"{out}.err").read_text()


def assert_alike(one: Path, several: Path) -> None:
    """Losses, held-out losses, norms and rates of each step, and then the weights."""
    assert len(rows(one)) == len(rows(several)) > 5
    for expected, found in zip(rows(one), rows(several), strict=True):
        for name in ("step", "tokens", "loss", "gradient_norm", "learning_rate", "heldout_loss", "heldout_bits_per_byte"):
            assert (name in found) is (name in expected)
            assert found.get(name, 0) == pytest.approx(expected.get(name, 0), rel=2e-5), (name, expected["step"])
    assert_alike_files(one / "model.safetensors", several / "model.safetensors", 2e-4)


def assert_alike_files(one: Path, several: Path, atol: float) -> None:
    expected, found = load_file(one), load_file(several)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize("out", list(STRAIGHT))
def test_several_processes_give_the_loss_of_one(here: Path, codes: dict[str, list[Any]], out: str) -> None:
    """Steps of five sequences in forward passes of one, so that processes have two or three of them, or one and an empty one.
    hsdp: two copies of two parts."""
    processes, kind = STRAIGHT[out]
    assert codes[out] == [0] * processes, words(here, out)
    assert_alike(here / "one", here / out)
    assert (facts(here / out)["processes"], facts(here / out)["parallel"]) == (processes, kind)
    assert list(here.glob(f".{out}.*")) == []


@pytest.mark.parametrize("out", list(RESUMED))
def test_the_number_of_processes_may_change(here: Path, codes: dict[str, list[Any]], out: str) -> None:
    """Killed at step 4 of 5, after a checkpoint of step 2, in one process or in two that hold parts; other numbers go on."""
    processes, kind = RESUMED[out]
    assert -9 in codes["begun-by-one" if out == "begun-by-one" else "cut"]
    assert codes[f"{out}, again"] == [0] * processes, words(here, out)
    assert "resuming after step 2 of 5" in words(here, out)
    assert ("checkpoints are written beside the training" in words(here, out)) is (out != "begun-by-one")
    assert_alike(here / "one", here / out)
    assert (facts(here / out)["processes"], facts(here / out)["parallel"]) == (processes, kind)


def test_as_many_processes_end_in_the_same_bits(here: Path, codes: dict[str, list[Any]]) -> None:
    """Cut off and resumed, its checkpoints written beside the training, against never stopped and without a checkpoint."""
    assert codes["cut, again"] == codes["fsdp"] == [0, 0]
    assert (here / "cut" / "model.safetensors").read_bytes() == (here / "fsdp" / "model.safetensors").read_bytes()


def test_a_part_that_was_damaged_is_not_gone_on_from(here: Path, codes: dict[str, list[Any]]) -> None:
    """The second process finds it, the first one says it; there was no checkpoint before."""
    assert codes["damaged, again"] == [0, 0], words(here, "damaged")
    assert words(here, "damaged").count("step-00000002: this checkpoint is damaged and is skipped") == 1
    assert "resuming" not in words(here, "damaged")
    assert (here / "damaged" / "model.safetensors").read_bytes() == (here / "fsdp" / "model.safetensors").read_bytes()


def test_every_process_writes_its_part_and_no_pickle(here: Path, codes: dict[str, list[Any]]) -> None:
    assert codes["left by two"] == ["shard-00001-model-00001-of-00001.safetensors",
                                    "shard-00002-model-00001-of-00001.safetensors", "state.json"]


def test_no_process_reads_what_it_does_not_hold(here: Path, codes: dict[str, list[Any]]) -> None:
    """In parts every byte of the model is read by one process (by one of each copy), and no matrix whole."""
    tensors = load_file(here / "model" / "model.safetensors")
    total, largest = (measure(tensor.nbytes for tensor in tensors.values()) for measure in (sum, max))
    reads = {out: [json.loads((here / f"{out}.{rank}.reads").read_text()) for rank in range(size)]
             for out, size in (("data", 2), ("fsdp", 2), ("hsdp", 4), ("by-three", 3))}
    assert [sum(part) for part in reads["data"]] == [total, total]
    assert [sum(part) for part in reads["fsdp"]] == [total / 2] * 2
    assert [sum(part) for part in reads["hsdp"]] == [total / 2] * 4
    assert sum(sum(part) for part in reads["by-three"]) == total
    assert max(max(part) for part in reads["fsdp"] + reads["hsdp"]) == largest / 2
    assert max(sum(part) for part in reads["by-three"]) < 0.4 * total


def test_whole_weights_are_the_same_bits_in_every_process(here: Path, codes: dict[str, list[Any]]) -> None:
    assert codes["data"] == [0, 0]
    assert (here / "data.0.masters").read_text() == (here / "data.1.masters").read_text()


class _Noting(Group):
    """One process that notes what it would send."""

    def begin_adding_up(self, tensor: torch.Tensor) -> None:
        sent.append(tensor.tolist())


sent: list[list[float]] = []


def test_full_buckets_are_sent_while_backward_goes_on() -> None:
    """From the last weight on, in that order whatever comes first, and only in a step's last backward pass."""
    sent.clear()
    masters = {name: torch.zeros(size) for name, size in (("a", 3), ("b", 1), ("c", 2), ("unused", 1))}
    buckets = Buckets(masters, _Noting(0, 1, torch.device("cpu")), elements=3)  # unused and c, b, a
    buckets.begin(last=False)
    for name in "cba":
        buckets.add(name, torch.ones(len(masters[name])))
    assert sent == []
    buckets.begin(last=True)
    buckets.add("unused", torch.zeros(1))
    buckets.add("a", torch.full((3,), 2.0))
    assert sent == []
    buckets.add("c", torch.full((2,), 4.0))
    assert sent == [[0, 5, 5]]
    buckets.add("b", torch.full((1,), 6.0))
    assert sent == [[0, 5, 5], [7], [3, 3, 3]]
    buckets.finish()
    assert len(sent) == 3
    assert [masters[name].grad.tolist() for name in masters] == [[3, 3, 3], [7], [5, 5], [0]]  # type: ignore[union-attr]


def test_a_weight_that_no_loss_depends_on_has_a_gradient_of_zero() -> None:
    sent.clear()
    masters = {name: torch.zeros(2) for name in ("a", "b")}
    buckets = Buckets(masters, _Noting(0, 1, torch.device("cpu")), elements=2)
    for gradient in (1.0, 3.0):
        for master in masters.values():
            master.grad = None
        buckets.begin(last=True)
        buckets.add("a", torch.full((2,), gradient))
        buckets.finish()
    assert sent == [[0, 0], [1, 1], [0, 0], [3, 3]]
    assert masters["b"].grad is not None


def test_sharded_adapters_with_recomputed_activations(here: Path, codes: dict[str, list[Any]]) -> None:
    """Frozen and trained weights in one layer, an embedding tied to the head, layers gathered again in backward."""
    one, several = here / "lora-1", here / "lora-2"
    assert (codes["lora-1"], codes["lora-2"]) == ([0], [0, 0]), words(here, "lora-2")
    assert [row.get("loss", 0) for row in rows(several)] == pytest.approx([row.get("loss", 0) for row in rows(one)], rel=2e-5)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert_alike_files(one / name, several / name, 1e-3)


def test_an_embedding_tied_to_the_head_is_one_weight_in_parts_too(here: Path, codes: dict[str, list[Any]]) -> None:
    """Every weight trained, computed in bfloat16, so the losses are alike to its rounding."""
    one, several = here / "tied-1", here / "tied-2"
    assert (codes["tied-1"], codes["tied-2"]) == ([0], [0, 0]), words(here, "tied-2")
    assert [row.get("loss", 0) for row in rows(several)] == pytest.approx([row.get("loss", 0) for row in rows(one)], rel=2e-3)
    counts = [json.loads((out / "manifest.json").read_text())["counts"] for out in (one, several)]
    assert counts[0]["trainable_parameters"] == counts[1]["trainable_parameters"]
    assert load_file(several / "model.safetensors").keys() == load_file(one / "model.safetensors").keys()


@pytest.mark.parametrize(("out", "why"), [
    ("none", "parallel: none, but 2 processes were started"),
    ("odd", "parallel: hsdp, but 3 processes cannot be divided into groups of 2; set shard_processes")])
def test_a_refusal_is_one_line(here: Path, codes: dict[str, list[Any]], out: str, why: str) -> None:
    assert 2 in codes[out]
    assert words(here, out).count(f"refused: {why}") == words(here, out).count("refused") == 1
    assert list(here.glob(f"*{out}.*")) == [here / f"{out}.err"]


def test_torchrun_makes_one_artifact_and_says_it_once(here: Path, codes: dict[str, list[Any]], tmp_path: Path) -> None:
    done = torchrun("--standalone", "-m", "biomistral.cli", "pretrain", "--model", str(here / "model"),
                    "--corpus", str(here / "corpus"), "--learning-rate", "5e-3", "--max-steps", "5", "--batch-sequences", "5",
                    "--evaluate-steps", "2", "--micro-batch-tokens", "32", "--epochs", "9", "--compute-dtype", "float32",
                    "--output-dtype", "float32", "--parallel", "fsdp", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("pretrain") == 1
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (here / "fsdp" / "model.safetensors").read_bytes()


def test_a_port_that_torchrun_keeps_to_itself_is_refused(here: Path, tmp_path: Path) -> None:
    """With --master-port 0 each process would ask at port 0 for ever."""
    done = torchrun("--master-port", "0", "-m", "biomistral.cli", "pretrain", "--model", str(here / "model"),
                    "--corpus", str(here / "corpus"), "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert done.stderr.count("biomistral: torchrun was started with --master-port 0") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_quantised_weights_in_parts_are_refused_before_anything_is_loaded(parallel: str) -> None:
    with pytest.raises(ValueError, match=f"parallel: {parallel} divides float weights.*qlora has quantised ones; set parallel"):
        FinetuneSettings(model=Input("nowhere"), train=(Input("nowhere"),), method="qlora", parallel=parallel)


class _Elsewhere(Group):
    """A process of a machine that does not see the first one's disk."""

    def words_of_first(self, value: Any) -> Any:
        return "/no/such/folder" if isinstance(value, str) else value


def test_a_disk_that_not_all_machines_share_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", writers=_Elsewhere(0, 1, torch.device("cpu")))
    with pytest.raises(UserError, match=r"/no/such/folder: not all processes see this folder.*set parallel to data"):
        checkpoints.load()
