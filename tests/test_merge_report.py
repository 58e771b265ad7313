"""What a merge tells: the plan beforehand, the report and the model card afterwards, and how two models differ."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from biomistral import cli
from biomistral.cards.card import Wanted, write_card
from biomistral.errors import UserError
from biomistral.merging import stream as streaming
from biomistral.merging.blocks import BLOCK
from biomistral.merging.card import public, stood_for
from biomistral.merging.diff import diff, render
from biomistral.merging.floats import Float, narrow, widen
from biomistral.merging.fused.native import run
from biomistral.merging.plan import Plan, plan_merge
from biomistral.merging.report import licence_of
from biomistral.merging.rows import Rows
from biomistral.merging.settings import MergeSettings
from biomistral.run import execute
from merge_models import FILES, make_models, save_moved, settings
from tiny import make_model

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.app(args=list(words))
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def arguments(folder: Path, text: str, models: dict[str, Path]) -> list[str]:
    made = settings(folder, text, models)
    return [str(made.config), *(word for name, place in made.models.items() for word in ("--models", f"{name}={place}"))]


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_the_plan_as_data(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = arguments(tmp_path, FILES["ties"] + "out_dtype: float16\n", models)
    code, out, _ = call(capsys, "merge", *words, "--plan", "--json", "--workers", "3")
    data = json.loads(out)
    stored = sum(tensor.nbytes for tensor in load_file(models["A"] / "model.safetensors").values())
    assert (code, data["method"], data["base"], data["layers"]) == (0, "ties", "A", 2)
    assert {key: data["bytes"][key] for key in ("inputs", "read", "written", "threads")} == {
        "inputs": 3 * stored, "read": 6 * stored, "written": stored, "threads": 3}
    assert data["bytes"]["free"] > 0
    rows = {row["name"]: row for row in data["tensors"]}
    assert rows.keys() == load_file(models["A"] / "model.safetensors").keys()
    row = rows["model.layers.1.mlp.up_proj.weight"]
    assert (row["shape"], row["dtype"], row["out_dtype"], row["method"]) == ([128, 64], "bfloat16", "float16", "ties")
    assert [source["model"] for source in row["inputs"]] == ["A", "B", "C"]
    assert row["inputs"][1]["parameters"] == {"weight": 0.5, "density": 0.4}
    assert row["inputs"][2]["file"] == str(models["C"] / "model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merge.yaml"]


def test_the_plan_refuses_a_disk_without_room(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    code, _, err = call(capsys, "merge", *arguments(tmp_path, FILES["slerp"], models), "--plan", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "GB are free on this disk" in err


# ---- the account of a tensor ----------------------------------------------------------------------------------------


def large_plan(folder: Path, numel: int = 70 * BLOCK + 17) -> tuple[Plan, dict[str, torch.Tensor]]:
    """Two checkpoints of one layer with a tensor that is sampled, not measured whole."""
    tensors = {}
    for number, name in enumerate("AB"):
        make_model(folder / name, layers=1, dtype="bfloat16")
        generator = torch.Generator().manual_seed(number)
        scale = torch.linspace(0.5, 1.5, numel)  # so that no part is like another
        tensors[name] = (torch.randn(numel, generator=generator) * scale).bfloat16()
        save_file(load_file(folder / name / "model.safetensors") | {"model.extra.weight": tensors[name]},
                  folder / name / "model.safetensors")
    made = settings(folder, FILES["slerp"], {name: folder / name for name in "AB"})
    return plan_merge(Path(made.config), {name: Path(place) for name, place in made.models.items()}), tensors


def test_a_sampled_drift_is_near_the_whole_ones_and_no_chunk_changes_it(tmp_path: Path) -> None:
    plan, parents = large_plan(tmp_path)
    found = []
    for chunk, workers in ((1, 1), (BLOCK * 32, 3), (1 << 20, 2)):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        _, rows = streaming.stream(plan, folder, chunk=chunk, workers=workers)
        found.append((rows, (folder / "model.safetensors").read_bytes()))
    assert found[0] == found[1] == found[2]
    merged = load_file(folder / "model.safetensors")["model.extra.weight"].double()
    row = next(row for row in found[0][0] if row["name"] == "model.extra.weight")
    for name, parent in parents.items():
        whole = float((merged - parent.double()).norm() / parent.double().norm())
        assert row["drift"][name] == pytest.approx(whole, rel=0.02)
        assert row["drift"][name] != whole


def test_zero_tensors_are_reported(tmp_path: Path, models: dict[str, Path]) -> None:
    zeroed = make_model(tmp_path / "Z", dtype="bfloat16")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(models["B"] / "model.safetensors")
    save_file(tensors | {name: -0.0 * tensors[name].abs()}, zeroed / "model.safetensors")
    both = {"A": zeroed, "B": models["B"]}
    execute(settings(tmp_path, "merge_method: linear\nmodels: [{model: A, parameters: {weight: 1}}, {model: B, parameters: "
                     "{weight: 0}}]\n", both), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["zero_tensors"] == [name]
    assert [row["zero"] for row in report["tensors"] if "zero" in row] == [["result", "A"]]
    assert f"All zeros, in the result or in a parent: `{name}`." in (tmp_path / "out" / "README.md").read_text()


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=16), max_size=20), st.sampled_from([Float.BF16, Float.F32]))
def test_the_peak_is_the_largest_magnitude(values: list[float], dtype: Float) -> None:
    stored = narrow(np.array(values, np.float32), dtype)
    found = np.zeros(1, np.int64)
    run("peaks", dtype, Rows([stored]).addresses, 1, len(stored), found)
    high = found[0]
    assert (high < Float.F32.infinity) == bool(np.isfinite(widen(stored, dtype)).all())
    if high < Float.F32.infinity:
        assert np.int32(high).view(np.float32) == np.abs(widen(stored, dtype)).max(initial=0)


# ---- the report and the card ----------------------------------------------------------------------------------------


def test_the_report_and_the_card(tmp_path: Path, models: dict[str, Path]) -> None:
    text = FILES["ties"].replace("model: B", f"model: {models['B']}")
    (models["A"] / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A\n")
    out = execute(settings(tmp_path, text, models), tmp_path / "out").path
    (models["A"] / "README.md").unlink()
    report = json.loads((out / "merge.json").read_text())
    assert report["file"] == text
    inputs = {entry["name"]: entry for entry in report["inputs"]}
    assert inputs.keys() == {"A", "C", str(models["B"])}
    assert (inputs["A"]["licence"], inputs["C"]["licence"]) == ("apache-2.0", None)
    manifest = json.loads((out / "manifest.json").read_text())
    assert {entry["key"] for entry in inputs.values()} <= {entry["key"] for entry in manifest["inputs"]}
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in front  # nobody proved under which names they are published
    assert "license" not in front  # not all parents state one
    assert str(models["B"]) not in card
    assert f"| A | apache-2.0 | {report['drift']['A']:.2%} |" in card
    assert f"In {report['sign_conflicts']:.2%} of the entries" in card
    assert "merge_method: ties" in card


def test_the_card_names_what_stood_for_the_files_names(tmp_path: Path, models: dict[str, Path],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomistral.assets._from_hub", lambda name: models["C"])
    text = FILES["ties"].replace("model: A", "model: mistralai/Mistral-7B-v0.1").replace("model: C", "model: org/third")
    (tmp_path / "merge.yaml").write_text(text)
    places = {"mistralai/Mistral-7B-v0.1": str(models["A"]), "B": str(models["B"]), "org/third": "hub:org/third@main"}
    out = execute(MergeSettings(config=str(tmp_path / "merge.yaml"), models=places), tmp_path / "out").path
    first = (out / "README.md").read_text()
    front = yaml.safe_load(first.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == (["org/third"], "merge")
    assert "\n| A, for mistralai/Mistral-7B-v0.1 | not stated | " in first
    assert "\n| hub:org/third@main | not stated | " in first
    assert "tokenizer of `A, for mistralai/Mistral-7B-v0.1`" in first
    whole = write_card(out, tmp_path / "whole.md", Wanted()).read_text()  # the whole card has nothing to correct
    assert yaml.safe_load(whole.split("---\n")[1])["base_model"] == front["base_model"]
    assert "\n| A, for mistralai/Mistral-7B-v0.1 | not stated | " in whole


def test_licences_of_cards(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert licence_of(tmp_path) is None
    for text, wanted in (("---\nlicense: mit\n---\n", "mit"), ("# no front matter\n---\nlicense: mit\n---\n", None),
                         ("---\nlicense: mit\n", None), ("---\nlicense: [a\n---\n", None), ("---\n- license\n---\n", None),
                         ("---\nlicense: 5\n---\n", None), ("", None)):
        card.write_text(text)
        assert licence_of(tmp_path) == wanted, text


def test_public_names() -> None:
    assert stood_for("/a/b/model", "/a/b/model") == "model"
    assert stood_for("A", "/x/A") == "A"
    assert stood_for("org/name", "/x/name") == "name, for org/name"
    assert stood_for("org/name", "hub:org/name@v1") == "hub:org/name@v1"
    assert stood_for("base", "embedded:smollm2") == "embedded:smollm2, for base"
    assert public("/a/b/model/+../x/lora") == "model+lora"
    assert public("BioMistral/BioMistral-7B") == "BioMistral/BioMistral-7B"


# ---- diff -----------------------------------------------------------------------------------------------------------


def test_diff_measures_every_tensor(models: dict[str, Path]) -> None:
    found = diff(models["A"], models["B"])
    first, second = (load_file(models[name] / "model.safetensors") for name in "AB")
    assert {row["name"] for row in found["tensors"]} == first.keys()
    for row in found["tensors"]:
        a, b = first[row["name"]].double().flatten(), second[row["name"]].double().flatten()
        assert row["distance"] == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-5)
        assert row["cosine"] == pytest.approx(float(a @ b / a.norm() / b.norm()), rel=1e-5)
        assert row["equal"] == float((a == b).double().mean())
        assert row["largest"] == pytest.approx(float((b - a).abs().max()), rel=1e-6)
    assert "20 tensors compared: 0 equal, 20 different" in render(found)
    assert len(render(found, 3).splitlines()) == 2 + 3


def test_diff_of_a_model_with_itself_and_with_another_shape(tmp_path: Path, models: dict[str, Path],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    same = diff(models["A"], models["A"])
    assert (same["identical"], same["overall"], same["config"]) == (20, {"equal": 1.0, "distance": 0.0}, {})
    make_model(tmp_path / "wide", vocab_size=410, layers=3, dtype="float32")
    code, out, _ = call(capsys, "merge", "diff", str(models["A"]), str(tmp_path / "wide"), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["shapes"] == {"model.embed_tokens.weight": [[400, 64], [410, 64]]}
    assert found["only_in_first"] == []
    assert all(name.startswith("model.layers.2.") for name in found["only_in_second"])
    assert len(found["only_in_second"]) == 9
    assert {"vocab_size", "num_hidden_layers"} <= found["config"].keys()
    assert {tuple(row["dtypes"]) for row in found["tensors"]} == {("bfloat16", "float32")}
    code, out, _ = call(capsys, "merge", "diff", str(models["A"]), str(tmp_path / "wide"))
    assert "shape differs: model.embed_tokens.weight: [400, 64] and [410, 64]" in out


def test_diff_of_zeros_and_of_values_that_are_not_finite(tmp_path: Path, models: dict[str, Path]) -> None:
    odd = make_model(tmp_path / "odd", dtype="bfloat16")
    tensors = load_file(models["A"] / "model.safetensors")
    zero, broken = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"
    tensors[zero] = torch.zeros_like(tensors[zero])
    tensors[broken] = tensors[broken].clone()
    tensors[broken].view(-1)[:2] = torch.tensor([NAN, INF])
    save_file(tensors, odd / "model.safetensors")
    rows = {row["name"]: row for row in diff(odd, models["A"])["tensors"]}
    assert (rows[zero]["distance"], rows[zero]["cosine"], rows[zero]["equal"]) == (None, None, 0)
    assert [rows[broken][key] for key in ("distance", "cosine", "largest")] == [None] * 3
    assert rows[broken]["equal"] == 1 - 2 / tensors[broken].numel()


def test_diff_names_a_truncated_file_and_its_tensor(tmp_path: Path, models: dict[str, Path]) -> None:
    cut = make_model(tmp_path / "cut", dtype="bfloat16")
    save_moved(models["A"], cut, 3)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated: tensor \S+ ends at byte"):
        diff(models["A"], cut)
