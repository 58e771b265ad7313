"""Whole merges through the front door: numbers against naive references, any chunk size, killed and resumed."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from biomistral import files
from biomistral.artifact import open_artifact, verify
from biomistral.errors import UserError
from biomistral.merging import stream as streaming
from biomistral.merging.checkpoint import Reader
from biomistral.merging.digest import RunningDigest
from biomistral.merging.draws import dare_mask
from biomistral.merging.plan import plan_merge
from biomistral.merging.settings import MergeSettings
from biomistral.models.load import load_model, load_tokenizer
from biomistral.recipe import Machine
from biomistral.run import execute
from biomistral.seeds import seed
from merge_models import FILES, Weights, make_models, save_moved, settings, weights
from tiny import make_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


def merged(folder: Path, text: str, models: dict[str, Path], **options: Any) -> Weights:
    return weights(execute(settings(folder, text, models, **options), folder / "out").path)


# ---- numbers --------------------------------------------------------------------------------------------------------


def naive_ties(base: torch.Tensor, others: list[torch.Tensor], how: list[tuple[float, float]]) -> torch.Tensor:
    """The published algorithm in the working type: trim by a stable sort, elect, merge what agrees, normalise."""
    rows, scales = [], torch.tensor([weight for weight, _ in how]).to(base.dtype)
    for other, scale, (_, density) in zip(others, scales, how, strict=True):
        delta = (other - base).flatten()
        keep = max(1, int(density * delta.numel()))
        order = torch.argsort(delta.abs().float(), descending=True, stable=True)[:keep]
        kept = torch.zeros_like(delta)
        kept[order] = delta[order]
        rows.append(kept * scale)
    stacked = torch.stack(rows)
    sign = torch.where(stacked.float().sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == sign
    total = (stacked.float() * agrees).sum(0).to(base.dtype)
    divisor = (scales.float().unsqueeze(1) * agrees).sum(0).to(base.dtype)
    divisor[divisor == 0] = 1
    return base + (total / divisor).view(base.shape)


def test_ties_equals_the_naive_algorithm(tmp_path: Path, models: dict[str, Path]) -> None:
    found = merged(tmp_path, FILES["ties"], models)
    base, *others = (load_file(models[name] / "model.safetensors") for name in "ABC")
    for name, tensor in found.items():
        assert tensor.equal(naive_ties(base[name], [other[name] for other in others], [(0.5, 0.4), (0.3, 0.7)])), name


def test_ties_in_float32_takes_two_histograms(tmp_path: Path) -> None:
    models = {"A": make_model(tmp_path / "A"), "B": make_model(tmp_path / "B"), "C": make_model(tmp_path / "C")}
    save_moved(models["A"], models["B"], 1)
    save_moved(models["A"], models["C"], 2)
    found = merged(tmp_path, FILES["ties"], models)
    base, *others = (load_file(models[name] / "model.safetensors") for name in "ABC")
    for name, tensor in found.items():
        assert tensor.equal(naive_ties(base[name], [other[name] for other in others], [(0.5, 0.4), (0.3, 0.7)])), name


def test_slerp_equals_the_formula_within_a_unit_in_the_last_place(tmp_path: Path, models: dict[str, Path]) -> None:
    found = merged(tmp_path, FILES["slerp"], models)
    base, other = (load_file(models[name] / "model.safetensors") for name in "AB")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "merge.json").read_text())["tensors"]}
    for name, tensor in found.items():
        a, b = base[name].double().flatten(), other[name].double().flatten()
        t = 0.2 + 0.6 * ("layers.1." in name)
        cosine = float(a @ b / a.norm() / b.norm())
        angle = math.acos(min(1, cosine))
        lerp = cosine > 0.9995
        first, second = (1 - t, t) if lerp else (math.sin(share * angle) / math.sin(angle) for share in (1 - t, t))
        cancelled = 2**-22 * float((a.abs() + b.abs()).max())  # float32 sums of opposite numbers
        assert torch.allclose(tensor.double().flatten(), first * a + second * b, rtol=2**-8, atol=cancelled), name
        assert rows[name]["branch"] == ("lerp" if lerp else "slerp")
        assert rows[name]["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert {row["branch"] for row in rows.values()} == {"slerp", "lerp"}


@pytest.mark.parametrize("rescale", ["mergekit", "paper"])
def test_dare_with_its_mask(tmp_path: Path, models: dict[str, Path], rescale: str) -> None:
    text = FILES["dare_linear"].replace("  - {model: C, parameters: {weight: 0.3, density: 0.7}}\n", "").replace("0.4", "0.5")
    found = merged(tmp_path, text, models, seed=5, dare_rescale=rescale)
    base, other = (load_file(models[name] / "model.safetensors") for name in "AB")
    for name, tensor in found.items():
        delta = (other[name] - base[name]).flatten()
        mask = np.empty(delta.numel(), np.uint8)
        dare_mask(seed(5, "dare", name, 0), 0, 0.5, mask)
        kept = delta * torch.from_numpy(mask)
        ratio = (delta.float().abs().sum().bfloat16() / kept.float().abs().sum().bfloat16()) if rescale == "mergekit" else 2.0
        wanted = base[name] + (kept * ratio * 0.5).view(tensor.shape)
        assert (tensor != wanted).float().mean() < (0.02 if rescale == "mergekit" else 1e-9), name
    facts = open_artifact(tmp_path / "out").manifest["facts"]
    assert abs(facts["kept"]["B"] - 0.5) < 0.01


def test_arithmetic_in_another_type_than_the_file_says(tmp_path: Path, models: dict[str, Path]) -> None:
    """The result keeps the file's type; it is the one of a file that says both."""
    found = {}
    for name, text, dtype in (("option", "dtype: bfloat16\n", "float32"), ("file", "dtype: float32\nout_dtype: bfloat16\n", ""),
                              ("models", "", "float32"), ("plain", "dtype: bfloat16\n", "")):
        (tmp_path / name).mkdir()
        plain = FILES["task_arithmetic"].replace("dtype: bfloat16\n", "")
        found[name] = merged(tmp_path / name, plain + text, models, dtype=dtype)
    for tensor, value in found["option"].items():
        assert value.dtype == torch.bfloat16
        assert value.equal(found["file"][tensor])
        assert value.equal(found["models"][tensor])
    assert any(not value.equal(found["plain"][tensor]) for tensor, value in found["option"].items())


def test_another_seed_is_another_dare(tmp_path: Path, models: dict[str, Path]) -> None:
    results = []
    for root in (0, 0, 1):
        folder = tmp_path / str(len(results))
        folder.mkdir()
        results.append(merged(folder, FILES["dare_ties"], models, seed=root)["model.layers.0.mlp.up_proj.weight"])
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


@pytest.mark.parametrize(("name", "dtype"), [*((name, "bfloat16") for name in sorted(FILES)), ("slerp", "float32"),
                                             ("ties_rescaled", "float32"), ("dare_ties", "float16")])
def test_chunk_size_never_changes_a_bit(tmp_path: Path, models: dict[str, Path], name: str, dtype: str) -> None:
    config = settings(tmp_path, FILES[name] + f"dtype: {dtype}\n", models)
    plan = plan_merge(Path(config.config), {key: Path(value) for key, value in config.models.items()})
    made = []
    for chunk in (1, 3 * 4096, 1 << 20):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        _, rows = streaming.stream(plan, folder, chunk=chunk)
        made.append(((folder / "model.safetensors").read_bytes(), rows))
    assert made[0] == made[1] == made[2]


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_the_result_is_a_model_folder(tmp_path: Path, models: dict[str, Path]) -> None:
    artifact = execute(settings(tmp_path, FILES["ties"] + "out_dtype: float16\n", models), tmp_path / "out")
    model = load_model(artifact.path)
    assert model.dtype == torch.float16
    assert load_tokenizer(artifact.path).get_vocab() == load_tokenizer(models["A"]).get_vocab()
    assert (artifact.path / "generation_config.json").is_file()
    assert verify(artifact) == []
    assert not list(artifact.path.glob(".*"))
    assert artifact.manifest["counts"] == {"tensors": 20, "parameters": model.num_parameters(), "layers": 2}


def test_the_report_measures_the_drift(tmp_path: Path, models: dict[str, Path]) -> None:
    found = merged(tmp_path, FILES["task_arithmetic"], models)
    rows = json.loads((tmp_path / "out" / "merge.json").read_text())["tensors"]
    for row in rows:
        for name in "ABC":
            parent = load_file(models[name] / "model.safetensors")[row["name"]].double()
            wanted = float((found[row["name"]].double() - parent).norm() / parent.norm())
            assert row["drift"][name] == pytest.approx(wanted, rel=1e-5)
    assert rows[0]["kept"] == [1.0, 1.0]


def test_sign_conflicts_are_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    merged(tmp_path, FILES["ties"].replace("density: 0.4", "density: 1").replace("density: 0.7", "density: 1"), models)
    base, *others = (load_file(models[name] / "model.safetensors") for name in "ABC")
    for row in json.loads((tmp_path / "out" / "merge.json").read_text())["tensors"]:
        first, second = ((other[row["name"]] - base[row["name"]]).float() for other in others)
        assert row["sign_conflicts"] == pytest.approx(float((first * second < 0).float().mean()), abs=1e-6)


def test_shards_and_index(tmp_path: Path, models: dict[str, Path]) -> None:
    whole = merged(tmp_path, FILES["linear"], models)
    (tmp_path / "cut").mkdir()
    cut = execute(settings(tmp_path / "cut", FILES["linear"], models, max_shard_bytes=60_000), tmp_path / "cut" / "out").path
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in cut.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert all(tensor.equal(whole[name]) for name, tensor in weights(cut).items())
    assert load_model(cut).num_parameters() == load_model(tmp_path / "out").num_parameters()


def test_stacked_layers_load(tmp_path: Path, models: dict[str, Path]) -> None:
    text = ("merge_method: passthrough\nslices: [{sources: [{model: A, layer_range: [0, 2]}]}, "
            "{sources: [{model: B, layer_range: [1, 2]}]}]\n")
    found = merged(tmp_path, text, models)
    third = load_file(models["B"] / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert found["model.layers.2.mlp.up_proj.weight"].equal(third)
    assert load_model(tmp_path / "out").config.num_hidden_layers == 3


def test_tokenizer_source_and_chat_template(tmp_path: Path, models: dict[str, Path]) -> None:
    execute(settings(tmp_path, FILES["slerp"] + "tokenizer_source: B\nchat_template: '{{ messages[0].content }} é'\n", models),
            tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").chat_template == "{{ messages[0].content }} é"
    (tmp_path / "auto").mkdir()
    execute(settings(tmp_path / "auto", FILES["slerp"] + "chat_template: auto\n", models), tmp_path / "auto" / "out")
    assert load_tokenizer(tmp_path / "auto" / "out").chat_template == load_tokenizer(models["A"]).chat_template


# ---- refusals while streaming ---------------------------------------------------------------------------------------


def test_a_nan_in_an_input_is_named(tmp_path: Path, models: dict[str, Path]) -> None:
    damaged = make_model(tmp_path / "D", dtype="bfloat16")
    tensors = load_file(damaged / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name].view(-1)[5000] = math.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"tensor {name} holds nan at element 5000; this model is damaged"):
        merged(tmp_path, FILES["slerp"], {"A": models["A"], "B": damaged})


def test_a_result_out_of_range_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    text = FILES["linear"].replace("weight: 1}", "weight: 1e9}") + "parameters: {normalize: false}\ndtype: float16\n"
    with pytest.raises(UserError, match=r"the merge gives -?inf at element \d+ of .* too large for float16"):
        merged(tmp_path, text, models)


def test_a_full_disk_is_refused_before_writing(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    with pytest.raises(UserError, match="GB are free on this disk"):
        merged(tmp_path, FILES["slerp"], models)
    assert not list(tmp_path.glob(".out*"))


# ---- interrupted ----------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from biomistral.merging import stream
from biomistral.merging.settings import MergeSettings
from biomistral.recipe import Machine
from biomistral.recipe import Machine
from biomistral.run import execute
write, after = stream.Writer.write, int(sys.argv[3])
count = 0
def slow(self, name, start, values):
    global count
    if count == after:
        write(self, name, start, values[: len(values) // 2])
        print("ready", flush=True)
        time.sleep(60)
    count += 1
    write(self, name, start, values)
stream.Writer.write = slow
execute(MergeSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Machine(workers=1))
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def kill_after(writes: int, made: MergeSettings, out: Path) -> None:
    """Run the merge in a process of its own and kill it in the middle of a tensor, ``writes`` whole chunks later."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, made.model_dump_json(), str(out), str(writes)],
                               stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()


def test_killed_twice_and_resumed_gives_the_same_bytes(tmp_path: Path, models: dict[str, Path],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(tmp_path, FILES["dare_ties"], models, max_shard_bytes=60_000)
    whole = tree(execute(made, tmp_path / "whole").path)
    kill_after(0, made, tmp_path / "out")
    kill_after(11, made, tmp_path / "out")
    done: list[str] = []
    merge_tensor = streaming._merge_tensor
    monkeypatch.setattr(streaming, "_merge_tensor", lambda task, *rest: (done.append(task.name), merge_tensor(task, *rest))[1])
    assert tree(execute(made, tmp_path / "out").path) == whole
    assert len(done) == 20 - 11


def test_a_torn_journal_line_and_another_boot_are_not_believed(tmp_path: Path, models: dict[str, Path]) -> None:
    config = settings(tmp_path, FILES["slerp"], models)
    plan = plan_merge(Path(config.config), {key: Path(value) for key, value in config.models.items()})
    folder = tmp_path / "work"
    folder.mkdir()
    _, rows = streaming.stream(plan, folder)
    whole, journal = (folder / "model.safetensors").read_bytes(), folder / ".journal.jsonl"
    lines = journal.read_text().split("\n")
    journal.write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])
    damaged = bytearray(whole)
    damaged[-50:] = bytes(50)  # the last tensors are not in the journal: they are made again
    (folder / "model.safetensors").write_bytes(damaged)
    assert streaming.stream(plan, folder)[1] == rows
    assert (folder / "model.safetensors").read_bytes() == whole
    journal.write_text(journal.read_text().replace('"boot": "', '"boot": "other', 1))
    (folder / "model.safetensors").write_bytes(bytes(len(whole)))
    assert streaming.stream(plan, folder)[1] == rows
    assert (folder / "model.safetensors").read_bytes() == whole


def test_an_input_that_shrinks_while_it_is_read(tmp_path: Path, models: dict[str, Path]) -> None:
    shrinking = make_model(tmp_path / "B", dtype="bfloat16")
    made = plan_merge(Path(settings(tmp_path, FILES["slerp"], models).config), {"A": models["A"], "B": shrinking})
    for size in (5000, 0):
        os.truncate(shrinking / "model.safetensors", size)
        reader, source = Reader(1), made.tensors[-1].inputs[1]
        with pytest.raises(UserError, match=r"ended inside tensor model\.norm\.weight"):
            reader.read(0, source.tensor, source.stored, 0, source.stored.numel)
        reader.close()


def test_run_twice_is_made_once(tmp_path: Path, models: dict[str, Path]) -> None:
    made = settings(tmp_path, FILES["linear"], models)
    first = execute(made, tmp_path / "out")
    started = time.time()
    assert execute(made, tmp_path / "out").manifest == first.manifest
    assert (tmp_path / "out" / "merge.json").stat().st_mtime < started


# ---- the hash taken on the way --------------------------------------------------------------------------------------


@given(parts=st.lists(st.binary(max_size=40), min_size=1, max_size=8), order=st.randoms(use_true_random=False),
       cut=st.integers(1, 20))
def test_a_hash_taken_while_parts_are_written_in_any_order_is_that_of_the_file(
        parts: list[bytes], order: Any, cut: int) -> None:
    starts = [6 + sum(map(len, parts[:number])) for number in range(len(parts))]
    writes = [(number, at) for number, part in enumerate(parts) for at in range(0, len(part), cut)]
    order.shuffle(writes)
    with tempfile.TemporaryFile(buffering=0) as stream:
        stream.write(b"header")
        digest = RunningDigest(stream.fileno(), b"header")
        for done, (number, at) in enumerate(writes, 1):
            piece = parts[number][at:at + cut]
            digest.wrote(starts[number] + at, memoryview(piece))
            os.pwrite(stream.fileno(), piece, starts[number] + at)
            if not any(other == number for other, _ in writes[done:]):
                digest.finished(starts[number], starts[number] + len(parts[number]))
    assert digest.end == 6 + sum(map(len, parts))
    assert digest.hexdigest() == blake3(b"header" + b"".join(parts)).hexdigest()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_hash_of_the_manifest_is_that_of_the_file_on_the_disk(
        tmp_path: Path, models: dict[str, Path], workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CACHE_FROM_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifact = execute(settings(tmp_path, FILES["slerp"], models), tmp_path / "out", Machine(workers=workers))
    written = (artifact.path / "model.safetensors").read_bytes()
    assert artifact.manifest["files"]["model.safetensors"]["blake3"] == blake3(written).hexdigest()
