"""quantize --compare: every form beside the 16-bit model, the numbers of the stages themselves, and work that goes on."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from biomistral import forms, run
from biomistral.artifact import open_artifact, verify
from biomistral.cli import app
from biomistral.errors import UserError
from biomistral.quantization import figure, table
from biomistral.quantization.measure import probe, speed
from biomistral.quantization.settings import QuantizeSettings
from biomistral.recipe import Machine
from biomistral.records import read_rows
from tiny import TEXT, make_model
from tiny_questions import make_questions

METHODS = ["rtn", "nf4", "gguf:Q8_0"]
FILES = {"forms.json", "forms.md", "forms.csv", "forms.html", "forms.svg"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pico model, a text and questions, as settings of the stage."""
    folder = tmp_path_factory.mktemp("inputs")
    text = folder / "text.txt"
    text.write_text(" ".join(f"{number}. {TEXT}" for number in range(30)), encoding="utf-8")
    questions = make_questions(folder / "questions.parquet", train=0, validation=0, test=6)
    return {"model": str(make_model(folder / "pico")), "calibration": str(text), "questions": str(questions), "samples": 2,
            "group_size": 32, "sequence_length": 32, "evaluation_samples": 2}


def wanted(inputs: dict[str, Any], out: Path, methods: list[str] = METHODS, **changed: Any) -> forms.Wanted:
    return forms.Wanted(QuantizeSettings(**{**inputs, **changed}), methods, out, speed=False)


@pytest.fixture(scope="module")
def compared(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("compared") / "forms"
    return out, forms.compare_forms(wanted(inputs, out), Machine())


def test_a_row_a_form_with_the_numbers_of_its_stages(compared: tuple[Path, list[dict[str, Any]]]) -> None:
    out, rows = compared
    assert [row["form"] for row in rows] == ["16 bits", *METHODS]
    first = rows[0]
    answers = {row["form"]: list(read_rows(out / "results" / forms.folder_name(row["form"]) / "answers.parquet")) for row in rows}
    for row in rows[1:]:
        made = open_artifact(out / forms.folder_name(row["form"]), "quantize")
        assert verify(made) == []
        facts = made.manifest["facts"]
        assert (row["bytes"], row["bits_per_weight"]) == (facts["size"]["bytes"], facts["size"]["bits_per_weight"])
        assert first["bytes"] == facts["size"]["reference_bytes"]
        assert row["perplexity"] == facts["perplexity"]["quantized"]
        assert first["perplexity"] == pytest.approx(facts["perplexity"]["reference"], rel=1e-5)
        assert (row["kl_mean"], row["kl_p99"]) == (facts["kl_divergence"]["mean"], facts["kl_divergence"]["p99"])
        assert row["argmax_flips"] == facts["argmax_flips"]
        assert "questions" not in facts
    for row in rows:
        right = [answer["right"] for answer in answers[row["form"]]]
        assert len(right) == 12
        assert row["accuracy"] == pytest.approx(sum(right) / 12)
        results = open_artifact(out / "results" / forms.folder_name(row["form"]))
        assert results.manifest["counts"]["answers"] == 12
    for row in rows[1:]:
        difference, low, high = row["difference"]
        assert difference == pytest.approx(row["accuracy"] - first["accuracy"])
        assert low <= difference <= high
        chosen = [[answer["chosen"] for answer in sorted(answers[form], key=lambda answer: answer["question"])]
                  for form in ("16 bits", row["form"])]
        assert row["option_flips"] == pytest.approx(sum(a != b for a, b in zip(*chosen, strict=True)) / 12)
        assert row["relative_time"] == pytest.approx(row["seconds_per_question"] / first["seconds_per_question"])
    assert rows[3]["kl_mean"] < rows[2]["kl_mean"]  # 8 bits against 4
    assert first["relative_time"] == 1


def test_the_files_say_what_the_rows_say(compared: tuple[Path, list[dict[str, Any]]]) -> None:
    out, rows = compared
    assert {path.name for path in out.iterdir()} == FILES | {"rtn", "nf4", "gguf-Q8_0", "results"}
    written = json.loads((out / "forms.json").read_text())
    assert written["rows"] == rows
    assert (written["protocol"], written["split"], written["limit"]) == ("medconceptsqa-0shot", "test", None)
    plain = list(csv.DictReader((out / "forms.csv").open(encoding="utf-8")))
    assert [line["form"] for line in plain] == [row["form"] for row in rows]
    for line, row in zip(plain[1:], rows[1:], strict=True):
        assert [float(line[name]) for name in ("difference", "low", "high")] == row["difference"]
        assert float(line["kl_mean"]) == row["kl_mean"]
    assert plain[0]["kl_mean"] == plain[0]["difference"] == ""
    head, rule, *lines = (out / "forms.md").read_text(encoding="utf-8").splitlines()
    assert len({len(line) for line in (head, rule, *lines)}) == 1
    titles = [title.strip() for title in head.strip("|").split("|")]
    column = titles.index("perplexity")
    assert [line.strip("|").split("|")[column].strip() for line in lines] == [f"{row['perplexity']:.2f}" for row in rows]
    assert "in memory, MB" not in titles  # not measured
    page = (out / "forms.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    drawn = json.loads(re.search(r"const figure = (\{.*\});\n", page).group(1))  # type: ignore[union-attr]
    assert drawn["data"][0]["y"] == ["16 bits", *METHODS]
    assert [bar["x"][2] for bar in drawn["data"]] == [rows[2]["bytes"] / 1e6, rows[2]["kl_mean"], 100 * rows[2]["difference"][0],
                                                     rows[2]["relative_time"]]
    texts = [element.text for element in ElementTree.parse(out / "forms.svg").iter() if element.tag.endswith("text")]
    assert {"pico: 3 quantised forms", "16 bits", *METHODS} <= set(texts)


def test_run_again_nothing_is_made_again(inputs: dict[str, Any], compared: tuple[Path, list[dict[str, Any]]],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    out, rows = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name not in FILES}
    with monkeypatch.context() as patched:
        patched.setattr("biomistral.artifact._function", lambda name: pytest.fail(f"{name} was called again"))
        assert forms.compare_forms(wanted(inputs, out), Machine()) == rows
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made: list[str] = []
    execute = run.execute
    monkeypatch.setattr(forms, "execute", lambda settings, *rest: (made.append(settings.kind), execute(settings, *rest))[1])
    fewer = forms.compare_forms(wanted(inputs, out, ["gguf:Q8_0", "rtn"], questions=None), Machine())
    assert [row["form"] for row in fewer] == ["16 bits", "gguf:Q8_0", "rtn"]
    assert [row["perplexity"] for row in fewer] == [rows[place]["perplexity"] for place in (0, 3, 1)]
    assert "accuracy" not in fewer[1]
    assert made == ["quantize", "quantize"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_cut_off_it_goes_on(inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = wanted(inputs, tmp_path / "forms", ["rtn", "gguf:Q8_0"], questions=None)
    execute = run.execute

    def cut(settings: Any, *rest: Any) -> Any:
        if settings.method == "gguf:Q8_0":
            raise KeyboardInterrupt
        return execute(settings, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(forms, "execute", cut)
        with pytest.raises(KeyboardInterrupt):
            forms.compare_forms(chosen, Machine())
    made = open_artifact(tmp_path / "forms" / "rtn")
    rows = forms.compare_forms(chosen, Machine())
    assert open_artifact(tmp_path / "forms" / "rtn").manifest == made.manifest
    assert [row["form"] for row in rows] == ["16 bits", "rtn", "gguf:Q8_0"]


def test_without_text_or_questions_only_sizes(inputs: dict[str, Any], tmp_path: Path) -> None:
    rows = forms.compare_forms(wanted(inputs, tmp_path / "forms", ["gguf:Q4_0"], questions=None, calibration=None), Machine())
    assert [column.title for column in table.shown(rows)] == ["form", "on disk, MB", "bits a weight"]
    assert rows[1]["bits_per_weight"] == 4.5


def test_lists_and_folders_that_are_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for methods, changed, message in (([], {}, "--compare : methods with commas between them were expected, each once"),
                                      (["rtn", "rtn"], {}, "--compare rtn,rtn: methods with commas"),
                                      (["rtn", "gguf:Q9"], {}, r"--compare.*method.*gguf:Q9"),
                                      (["nf4", "awq"], {"calibration": None}, "method: awq needs text to calibrate")):
        with pytest.raises(UserError, match=message) as caught:
            forms.compare_forms(wanted(inputs, out, methods, **changed), Machine())
        assert "\n" not in str(caught.value)
    assert not out.exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    made = run.execute(QuantizeSettings(model=inputs["model"], method="gguf:Q8_0"), tmp_path / "artifact").path
    for place in (tmp_path / "foreign", tmp_path / "file", made):
        with pytest.raises(UserError, match="already exists and holds no comparison; choose an --out that is empty or new"):
            forms.compare_forms(wanted(inputs, place), Machine())
    assert {path.name for path in (tmp_path / "foreign").iterdir()} == {"thesis.tex"}
    assert open_artifact(made).kind == "quantize"


def test_the_command_and_its_speed(inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measured", lambda folder, device, dtype: probe.probe(
        folder, torch.device(device), getattr(torch, dtype)))  # here, and not in processes that start for five seconds
    command = ["quantize", inputs["model"], "--compare", "gguf:Q8_0", "--out", str(tmp_path / "forms"), "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "| gguf:Q8_0 |" in result.stdout
    assert "forms.html shows it" in " ".join(result.stdout.split())
    rows = json.loads((tmp_path / "forms" / "forms.json").read_text())["rows"]
    for row in rows:
        assert row["weight_bytes"] > 0
        assert row["prefill_tokens_per_second"] > 0
        assert row["decode_tokens_per_second"] > 0
    assert [column.key for column in table.shown(rows)][-2:] == ["prefill_tokens_per_second", "decode_tokens_per_second"]
    assert [panel.key for panel in figure.panels(rows)] == ["resident_bytes", "relative_time"]
    monkeypatch.setattr(speed, "measured", lambda *_: pytest.fail("measured again"))
    assert CliRunner().invoke(app, command).exit_code == 0
    refused = CliRunner().invoke(app, [*command[:3], "rtn,rtn", *command[4:]])
    assert refused.exit_code != 0
    assert "each once" in " ".join(refused.output.split())
