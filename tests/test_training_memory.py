"""What is kept for backward and what is computed again; memory foreseen before a model is read, and what is refused for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from biomistral import limits
from biomistral.artifact import Artifact
from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.recipe import Input, Machine
from biomistral.run import execute
from biomistral.training import finetune as finetune_module
from biomistral.training import pretrain as pretrain_module
from biomistral.training.compute.attention import use_isolated_attention
from biomistral.training.compute.compiled import compile_between_products
from biomistral.training.compute.fused import use_fused_norms
from biomistral.training.compute.recompute import use_recomputation
from biomistral.training.compute.segments import Segments
from biomistral.training.data.batch import MicroBatch, batch_loss, final_hidden
from biomistral.training.foresight import memory as foresight
from biomistral.training.foresight import rehearsal
from biomistral.training.foresight.footprint import Footprint, footprint, micro_batch_tokens, skeleton
from biomistral.training.settings import FinetuneSettings, LoraSettings, PretrainSettings, QloraSettings
from tiny import make_model
from training_inputs import make_corpus, make_examples

HOWS = ("none", "selective", "full")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("memory") / "model")


@pytest.fixture(scope="module")
def corpus(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("memory") / "corpus", model)


def pretrain(model: Path, corpus: Path, out: Path, machine: Machine | None = None, **changes: Any) -> Artifact:
    few = {"max_steps": 3, "batch_sequences": 4, "learning_rate": 1e-2, "output_dtype": "float32"}
    return execute(PretrainSettings(model=Input(model), corpus=Input(corpus), **{**few, **changes}), out,
                   machine or Machine(device="cpu"))


def finetune(model: Path, train: Path, out: Path, **changes: Any) -> Artifact:
    few = {"max_steps": 3, "batch_sequences": 4, "sequence_length": 96, "learning_rate": 1e-2, "output_dtype": "float32"}
    return execute(FinetuneSettings(model=Input(model), train=(Input(train),), **{**few, **changes}), out, Machine(device="cpu"))


def rows_of(made: Artifact) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["gradient_norm"]) for row in rows if "loss" in row]


# ---- recomputation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_what_is_computed_again_gives_the_same_bits(model: Path, corpus: Path, tmp_path: Path, compute_dtype: str) -> None:
    made = [pretrain(model, corpus, tmp_path / how, gradient_checkpointing=how, compute_dtype=compute_dtype) for how in HOWS]
    assert rows_of(made[0]) == rows_of(made[1]) == rows_of(made[2])
    assert len({(one.path / "model.safetensors").read_bytes() for one in made}) == 1


def test_so_it_does_with_an_adapter_s_dropout(model: Path, tmp_path: Path) -> None:
    train = make_examples(tmp_path / "train.jsonl")
    made = [finetune(model, train, tmp_path / how, lora=LoraSettings(rank=4, dropout=0.3), gradient_checkpointing=how)
            for how in HOWS]
    assert rows_of(made[0]) == rows_of(made[1]) == rows_of(made[2])
    assert len({(one.path / "adapter" / "adapter_model.safetensors").read_bytes() for one in made}) == 1


def test_yes_and_no_are_still_read(model: Path, corpus: Path) -> None:
    for given, meant in ((True, "full"), (False, "none"), ("selective", "selective")):
        settings = PretrainSettings(model=Input(model), corpus=Input(corpus), gradient_checkpointing=given)
        assert settings.gradient_checkpointing == meant


class Products(TorchDispatchMode):  # type: ignore[misc]
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += function is torch.ops.aten.mm.default
        return function(*arguments, **(named or {}))


def test_selective_computes_no_product_twice(model: Path) -> None:
    """Full does those of a layer but its last again: backward needs nothing after that one's input."""
    counts = {}
    for how in HOWS:
        trained = load_model(model, torch.float32).train()
        use_isolated_attention(trained)
        use_recomputation(trained, how)
        ids = torch.arange(3, 43)[None]
        with Products() as products:
            batch_loss(trained, MicroBatch(ids, torch.arange(40)[None], ids, Segments([40])), 40).backward()
        counts[how] = products.count
    assert counts["selective"] == counts["none"]
    assert counts["full"] == counts["none"] + 2 * 6  # q, k, v, o, gate and up of both layers


def test_compiling_lets_selective_see_the_products(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products inside of compiled code would all be computed again."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled(self, backend="aot_eager"))
    ids, counts, losses = torch.arange(3, 43)[None], [], []
    for how in ("selective", "none"):
        trained = load_model(model, torch.float32).train()
        use_isolated_attention(trained)
        if how == "selective":
            assert compile_between_products(trained) == (5, 2)  # two norms a layer and the last
        use_recomputation(trained, how)
        with Products() as products:
            loss = batch_loss(trained, MicroBatch(ids, torch.arange(40)[None], ids, Segments([40])), 40)
            loss.backward()
        counts.append(products.count)
        losses.append(float(loss))
    assert counts[0] == counts[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- the rehearsal --------------------------------------------------------------------------------------------------


def shape(layers: int, **changes: Any) -> Any:
    def make(number: int) -> Any:
        config = LlamaConfig(**{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers,
                                "num_attention_heads": 4, "num_key_value_heads": 2, **changes})
        with torch.device("meta"):
            found = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        found.model.layers = found.model.layers[:number]
        return found
    return make


def test_what_a_rehearsal_says_is_kept_is_what_autograd_keeps() -> None:
    """Against the storages that a real forward pass hands to autograd, each counted once, the weights left out."""
    with torch.device("cpu"):
        real = AutoModelForCausalLM.from_config(shape(2)(2).config, dtype=torch.bfloat16).train()
    use_isolated_attention(real)
    use_fused_norms(real)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*real.parameters(), *real.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(256)[None] % 300
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = final_hidden(real, MicroBatch(ids, ids, ids, Segments([128, 128])))
    kept[hidden.untyped_storage().data_ptr()] = hidden
    held = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items()
               if place not in own and place != ids.untyped_storage().data_ptr())
    rehearsed = shape(2)(2)
    rehearsal._prepare(rehearsed, "none", 128, True)
    found, peak = rehearsal._run(rehearsed, 256, 128)
    assert found == pytest.approx(held, rel=0.05)
    assert peak > found


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("on_cpu", [True, False])
def test_two_layers_stand_for_all(how: str, on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from_two = rehearsal.activation_bytes(shape(6), 6, how, 256, 128, on_cpu)
    monkeypatch.setattr(rehearsal, "_LAYERS", 6)
    assert from_two == pytest.approx(rehearsal.activation_bytes(shape(6), 6, how, 256, 128, on_cpu), rel=0.01)


def test_recomputation_and_length_show() -> None:
    def held(how: str, tokens: int = 1024, length: int = 256) -> int:
        return rehearsal.activation_bytes(shape(8), 8, how, tokens, length, True)

    assert held("full") < 0.6 * held("selective") < 0.6 * held("none")
    assert held("none", 2048) > 1.8 * held("none", 1024)
    assert held("none", length=1024) > 1.2 * held("none", length=256)  # attention keeps its probabilities


# ---- the footprint --------------------------------------------------------------------------------------------------


def test_static_parts_worked_by_hand(model: Path) -> None:
    """99,648 weights; an adapter of rank 4 on q and v of both layers: 4 * (64 + 64 + 64 + 32) * 2 = 1,792 more."""
    def parts(method: str = "full", adapter: LoraSettings | None = None, parts: int = 1, **changes: Any) -> tuple[int, ...]:
        settings = FinetuneSettings(model=Input(model), train=(Input("t"),), method=method, **changes)
        found = footprint(skeleton(model, settings), settings, adapter, 64, "cpu", parts, parts)
        return found.weights, found.masters, found.gradients, found.moments, found.ending

    size, adapter = 99_648, LoraSettings(rank=4, targets=("q_proj", "v_proj"))
    assert parts() == (2 * size, 4 * size, 4 * size, 8 * size, 0)
    assert parts(compute_dtype="float32") == (4 * size, 0, 4 * size, 8 * size, 0)
    assert parts(optimizer="adamw8bit")[3] == int(2 * size * (1 + 4 / 256))
    copying = FinetuneSettings(model=Input(model), train=(Input("t"),), method="full", asynchronous_checkpoints=True)
    assert footprint(skeleton(model, copying), copying, None, 64, "cpu", 4, 4).copied == 12 * size // 4
    assert parts(parts=4) == (0, size, size, 2 * size, 0)
    assert parts("lora", adapter) == (2 * (size + 1792), 4 * 1792, 4 * 1792, 8 * 1792, 4 * size)
    quantised = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    nf4, eight = (parts("qlora", adapter, qlora=QloraSettings(storage=storage))[0] for storage in ("nf4", "int8"))
    assert nf4 == pytest.approx(2 * (size + 1792 - quantised) + quantised * 4.127 / 8, rel=1e-3)
    assert eight == 2 * (size + 1792 - quantised) + quantised + 4 * 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)


def test_the_host_keeps_what_merging_takes() -> None:
    needs = Footprint(weights=10, masters=1, gradients=1, moments=2, activations=5, ending=20)
    assert needs.needed_on("cpu", "cpu") == 34
    assert needs.needed_on("cpu", "cuda") == 20
    assert needs.needed_on("cuda", "cuda") == needs.training == 19
    copying = replace(needs, copied=30)  # what an asynchronous checkpoint writes from
    assert [copying.needed_on(*pair) for pair in (("cpu", "cpu"), ("cpu", "cuda"), ("cuda", "cuda"))] == [49, 30, 19]


@pytest.mark.parametrize(("changes", "processes", "expected"), [
    ({"micro_batch_tokens": 2048, "batch_sequences": 8}, 1, 2048), ({"micro_batch_tokens": 1000, "batch_sequences": 8}, 1, 512),
    ({"micro_batch_tokens": 8192, "batch_sequences": 3}, 1, 1536), ({"micro_batch_tokens": 8192, "batch_sequences": 3}, 2, 1024)])
def test_the_largest_forward_pass(changes: dict[str, int], processes: int, expected: int) -> None:
    settings = FinetuneSettings(model=Input("m"), train=(Input("t"),), **changes)
    assert micro_batch_tokens(settings, 512, processes) == expected


def make_mistral(folder: Path) -> Path:
    """config.json of Mistral 7B, a tokenizer, and weights that nobody can read as such."""
    make_model(folder)
    config = MistralConfig(vocab_size=32_000, max_position_embeddings=32_768, architectures=["MistralForCausalLM"])
    config.save_pretrained(folder)
    assert (config.num_hidden_layers, config.hidden_size) == (32, 4096)
    return folder


def never(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("the weights were about to be read")


def test_seven_billion_weights_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, train = make_mistral(tmp_path / "model"), make_examples(tmp_path / "train.jsonl")
    monkeypatch.setattr(finetune_module, "_model_to_train", never)
    monkeypatch.setattr(foresight, "available_memory_bytes", lambda: 60 * 10**9)
    with pytest.raises(UserError) as refused:
        finetune(folder, train, tmp_path / "out", method="full", sequence_length=128)
    text = str(refused.value)
    assert "\n" not in text
    words = text.split()
    assert 120 < float(words[words.index("about") + 1]) < 150  # 18 bytes a weight and the activations
    assert "cpu has 60.0 GB free" in text
    assert "method: lora needs" in text
    assert "--ignore-memory" in text
    assert not list(tmp_path.glob("out*"))
    monkeypatch.setattr(foresight, "available_memory_bytes", lambda: 5 * 10**9)
    with pytest.raises(UserError, match=r"5\.0 GB free, of which 90% may be taken; method: qlora.* needs \d+\.\d GB; or try"):
        finetune(folder, train, tmp_path / "out", method="full", sequence_length=128)


def test_what_just_fits_is_trained_and_memory_can_be_ignored(model: Path, corpus: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    need = pretrain(model, corpus, tmp_path / "a").manifest["facts"]["planned_memory_bytes"]
    monkeypatch.setattr(foresight, "available_memory_bytes", lambda: int(need / 0.9) + 2)
    pretrain(model, corpus, tmp_path / "b")
    monkeypatch.setattr(foresight, "available_memory_bytes", lambda: int(need / 0.9) - 2)
    monkeypatch.setattr(pretrain_module, "open_model", never)
    with pytest.raises(UserError, match=r"pretrain needs about 0\.3 GB in each process.*micro_batch_tokens: 32 needs "):
        pretrain(model, corpus, tmp_path / "c")
    monkeypatch.undo()
    monkeypatch.setattr(foresight, "available_memory_bytes", lambda: 1)
    made = pretrain(model, corpus, tmp_path / "d", Machine(device="cpu", ignore_memory=True))
    assert load_file(made.path / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()


def test_a_rehearsal_that_fails_refuses_nothing(model: Path, corpus: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> int:
        raise NotImplementedError("aten::nonzero on meta tensors\nand more")

    monkeypatch.setattr("biomistral.training.foresight.footprint.activation_bytes", fails)
    assert pretrain(model, corpus, tmp_path / "out").manifest["facts"]["planned_memory_bytes"] is None


# ---- what the machine has -------------------------------------------------------------------------------------------


def make_system(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroup = root / "proc", root / "cgroup"
    for path, text in {proc / "self" / "cgroup": own, proc / "meminfo": "MemTotal: 99 kB\nMemAvailable:   5000 kB\n",
                       **{cgroup / name: text for name, text in files.items()}}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, cgroup


@pytest.mark.parametrize(("own", "files", "expected"), [
    ("0::/\n", {}, 5_120_000),
    ("0::/\n", {"memory.max": "max\n", "memory.current": "7\n"}, 5_120_000),
    ("0::/job/step\n", {"job/memory.max": "1000\n", "job/memory.current": "900\n",
                        "job/memory.stat": "anon 1\ninactive_file 50\n", "job/step/memory.max": "max\n",
                        "job/step/memory.current": "800\n"}, 150),
    ("0::/job/step\n", {"job/memory.max": "1000\n", "job/memory.current": "900\n", "job/step/memory.max": "820\n",
                        "job/step/memory.current": "800\n"}, 20),
    ("0::/job\n", {"job/memory.max": "10\n", "job/memory.current": "90\n"}, 0),
    ("3:cpu:/x\n2:memory:/job\n", {"memory/job/memory.limit_in_bytes": "700\n", "memory/job/memory.usage_in_bytes": "300\n",
                                   "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 5\n"}, 405)])
def test_the_smallest_limit_counts(own: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert limits.available_memory_bytes(*make_system(tmp_path, own, files)) == expected


def test_without_linux_s_files_all_memory_counts(tmp_path: Path) -> None:
    assert limits.available_memory_bytes(tmp_path / "none", tmp_path / "none") > 1e8
