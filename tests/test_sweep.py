"""``merge sweep``: the grid, what it changes in a merge file, the front, and a whole sweep that goes on where it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral import cli, sweep
from biomistral.artifact import open_artifact
from biomistral.errors import UserError
from biomistral.records import LETTERS, Question, write_questions
from merge_models import TASKS, make_models


def test_a_grid_is_read() -> None:
    grid = sweep.read_grid(["method=ties,dare_ties", "density=0.3,1e-1"])
    assert grid == {"method": ["ties", "dare_ties"], "density": [0.3, 0.1]}
    for wrong in (["density"], ["density="], ["density=a"], ["t=1", "t=2"]):
        with pytest.raises(UserError, match="--vary"):
            sweep.read_grid(wrong)


def test_a_variant_replaces_a_parameter_where_it_stands_and_adds_it_where_it_does_not() -> None:
    data = yaml.safe_load(TASKS % "ties" + "parameters: {normalize: true}\n")
    made = sweep.variant(data, {"method": "dare_ties", "density": 0.9, "lambda": 2.0})
    assert made["merge_method"] == "dare_ties"
    assert [entry.get("parameters", {}).get("density") for entry in made["models"]] == [None, 0.9, 0.9]
    assert [entry["parameters"]["weight"] for entry in made["models"][1:]] == [0.5, 0.3]
    assert made["parameters"] == {"normalize": True, "lambda": 2.0}
    assert data == yaml.safe_load(TASKS % "ties" + "parameters: {normalize: true}\n")


def rows_of(scores: list[tuple[int, int]], suites: int) -> list[dict[str, Any]]:
    return [{"name": str(number), "kind": "merge", "scores": {"a": one / 4} if suites == 1 else {"a": one / 4, "b": two / 4},
             "drift": -two / 4} for number, (one, two) in enumerate(scores)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12), st.sampled_from([1, 2]))
def test_the_front_is_what_nothing_dominates(scores: list[tuple[int, int]], suites: int) -> None:
    rows = rows_of(scores, suites)
    sweep.mark_front(rows)
    for row, (x, y) in zip(rows, scores, strict=True):
        assert row["front"] == (not any(a >= x and b >= y and (a, b) != (x, y) for a, b in scores))
    assert sweep.render(rows).count("\n* ") + sweep.render(rows).startswith("* ") == sum(row["front"] for row in rows) + 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two other models, a merge file over two of them, and a benchmark."""
    folder = tmp_path_factory.mktemp("sweep")
    make_models(folder)
    (folder / "merge.yaml").write_text("merge_method: ties\nbase_model: A\nmodels:\n  - model: A\n"
                                       "  - {model: B, parameters: {weight: 0.5, density: 0.4}}\n")
    write_questions(folder / "codes.parquet", [
        Question(id=f"q{number}", task="t", split="dev" if number < 5 else "test", stem=f"Heart {number}?",
                 options=("lung", "liver", "fever", f"cough {number}"), answer=LETTERS[number % 4]) for number in range(13)])
    return folder


def call(capsys: pytest.CaptureFixture[str], place: Path, out: Path, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.app(args=["merge", "sweep", str(place / "merge.yaml"), "--suite", str(place / "codes.parquet"), "--models",
                      f"A={place / 'A'}", "--models", f"B={place / 'B'}", "--protocol", "cloze-mean", "--out", str(out), *words])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_a_sweep_merges_evaluates_and_goes_on(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    code, text, _ = call(capsys, place, out, "--vary", "method=ties,dare_ties", "--vary", "weight=0.25", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(text)}
    assert list(rows) == ["A", "B", "method=ties-weight=0.25", "method=dare_ties-weight=0.25"]
    assert rows["A"]["drift"] == 0
    one = out / "method=ties-weight=0.25"
    made = open_artifact(one / "model", "merge")
    assert made.manifest["facts"]["drift"]["A"] == rows[one.name]["drift"]
    results = json.loads((one / "results" / "codes" / "results.json").read_text())
    assert results["model"]["key"] == made.key
    assert results["protocols"]["cloze-mean"]["average"] == rows[one.name]["scores"]["codes"]
    assert json.loads((out / "sweep.json").read_text())["rows"] == list(rows.values())
    again = ("--vary", "method=ties,dare_ties", "--vary", "weight=0.25", "--json")
    shutil.rmtree(one / "model")  # a merge whose row is there is not made again
    assert json.loads(call(capsys, place, out, *again)[1]) == list(rows.values())
    assert not (one / "model").exists()
    assert json.loads(call(capsys, place, out, *again, "--keep", "front")[1]) == list(rows.values())
    other = rows["method=dare_ties-weight=0.25"]
    assert (out / other["name"] / "model").exists() == other["front"]


def test_an_unsound_point_is_refused_before_any_merge(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, place, tmp_path / "s", "--vary", "density=0.5,1.5")
    assert code == 2
    assert "'density' = 1.5 lies outside 0 to 1" in err
    assert not list((tmp_path / "s").rglob("*.safetensors"))
    assert call(capsys, place, tmp_path / "s", "--vary", "density=" + ",".join(["0.5"] * 65))[0] == 2
