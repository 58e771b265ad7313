"""The command line: options made from settings, exit codes, one-line errors, machine-readable output."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from biomistral import cli, run
from biomistral.doctor import examine, render
from biomistral.options import command_for
from tiny import make_model
from toy import ToySettings


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.KINDS, "toy", "toy:ToySettings")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.app(args=list(arguments))
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def recipe(folder: Path, fail: str = "") -> str:
    path = folder / "r.yaml"
    path.write_text(f"name: r\nstages:\n  one: {{kind: toy, fail: '{fail}'}}\n")
    return str(path)


def test_a_recipe_runs_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", recipe(tmp_path), "--out", str(tmp_path / "o"), "--json")
    assert code == 0
    assert json.loads(out)[0]["counts"] == {"sum": 1}
    code, out, _ = call(capsys, "run", recipe(tmp_path), "--out", str(tmp_path / "o"))
    assert (code, out.split()[:2]) == (0, ["reused", "one"])


def test_the_users_mistakes_end_in_two_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", str(tmp_path / "none.yaml"))
    assert (code, out, err) == (2, "", f"biomistral: {tmp_path}/none.yaml: no such file\n")
    code, _, err = call(capsys, "run", recipe(tmp_path, "refuse"), "--out", str(tmp_path / "o"))
    assert (code, err.splitlines()[-1]) == (2, "biomistral: toy: refused")
    assert call(capsys, "run", recipe(tmp_path), "--nonsense")[0] == 2
    assert call(capsys, "nonsense")[0] == 2


def test_an_interruption_ends_in_130_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", recipe(tmp_path, "interrupt"), "--out", str(tmp_path / "o"))
    code, _, err = call(capsys, *arguments)
    assert (code, err.splitlines()[-1]) == (130, "biomistral: interrupted; run the same command again and it goes on")
    assert call(capsys, *arguments)[0] == 0


def test_sigterm_is_an_interruption(tmp_path: Path) -> None:
    script = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
              "from biomistral import cli, run\nrun.KINDS['toy'] = 'toy:ToySettings'\n"
              f"sys.argv = ['biomistral', 'run', {recipe(tmp_path, 'hang')!r}, '--out', {str(tmp_path / 'o')!r}]\ncli.main()")
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "o").glob(".one.*.partial/part.txt")):
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout=20) == 130


def test_our_own_bugs_show_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.make", lambda work: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.app(args=["run", recipe(tmp_path), "--out", str(tmp_path / "o")])


COMMANDS = [["run"], ["pretrain"], ["finetune"], ["preview"], ["merge"], ["merge", "file"],
            ["merge", "diff"], ["merge", "sweep"], ["quantize"], ["evaluate"], ["report"], ["compare"],
            ["lineage"], ["doctor"], ["model", "import"], ["model", "select"], ["benchmark", "build"], ["corpus", "build"],
            ["corpus", "show"]]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_that_teaches(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *words, "--help")
    assert code == 0
    summary = out.partition("\n\n")[2].partition("\n\n")[0]
    assert len(summary.split()) >= 5
    lines = out.partition("Options:")[2].splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("  --"):  # its description stands beside it or on the next line
            assert "  " in line.strip() or following.startswith(" " * 10), line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_is_on_by_default_can_be_turned_off(words: list[str]) -> None:
    command = typer.main.get_command(cli.app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    on = [option for option in command.params if getattr(option, "is_flag", False) and option.default is True]
    assert [option.name for option in on if not option.secondary_opts] == []


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("cli") / "pico")


def _spoilt(pico: Path, folder: Path, what: str) -> list[str]:
    """The arguments of a command whose input is bad in one way."""
    model = folder / "model"
    shutil.copytree(pico, model)
    questions = folder / "q.jsonl"
    questions.write_text('{"id": "1", "task": "t", "stem": "Fever?", "options": {"A": "yes", "B": "no"}, "answer": "A"}\n')
    evaluate = ["evaluate", "--model", str(model), "--suite", str(questions), "--protocols", "cloze-mean"]
    if what == "truncated weights":
        (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:999])
    elif what == "no tokenizer":
        (model / "tokenizer.json").unlink()
    elif what == "answer not an option":
        questions.write_text(questions.read_text().replace('"answer": "A"', '"answer": "C"'))
    elif what == "corrupt GGUF":
        (folder / "m.gguf").write_bytes(b"GGUF\x03\x00")
        return ["model", "import", str(folder / "m.gguf")]
    elif what == "empty corpus":
        (folder / "articles").mkdir()
        return ["corpus", "build", str(folder / "articles"), "--tokenizer", str(model)]
    elif what == "refused corpus":
        (folder / "articles").mkdir()
        (folder / "articles" / "a.xml").write_text("<article><front/></article>")
        return ["corpus", "build", str(folder / "articles"), "--tokenizer", str(model)]
    elif what == "output taken":
        (folder / "out").mkdir()
        (folder / "out" / "thesis.tex").write_text("precious")
    elif what == "two models of one name":
        return [*evaluate, "--model", str(model)]
    return evaluate


@pytest.mark.parametrize(("what", "message"), [
    ("truncated weights", r"model\.safetensors: truncated or corrupt safetensors"),
    ("no tokenizer", "a model without a tokenizer"),
    ("answer not an option", r"q\.jsonl:1: .*answer 'C' is not among the options AB"),
    ("corrupt GGUF", r"m\.gguf: truncated or corrupt GGUF"),
    ("empty corpus", "nothing here that a source of type auto reads"),
    ("refused corpus", "no document is left of 1 read"),
    ("output taken", "already exists and is not an artifact"),
    ("two models of one name", "two models are called the same"),
])
def test_bad_input_ends_in_two_one_line_and_nothing_written(pico: Path, tmp_path: Path, what: str, message: str,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _spoilt(pico, tmp_path, what)
    code, out, err = call(capsys, *arguments, "--out", str(tmp_path / "out"), "--workers", "1")
    assert code == 2, err
    assert out == ""
    last = err.splitlines()[-1]
    assert re.search(message, last), last
    assert last.startswith("biomistral: ")
    assert [path.name for path in tmp_path.glob("out/*")] == (["thesis.tex"] if what == "output taken" else [])


def test_every_setting_says_what_it_is() -> None:
    for kind in run.KINDS:
        for name, field in run.settings_class(kind).model_fields.items():
            assert field.description, f"{kind}.{name}"


def test_options_become_settings(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[ToySettings] = []
    command = command_for(ToySettings, got.append, [])  # type: ignore[arg-type]
    command(seed=3, source=None, more=["a,b", "c"], amount=2, fail="")
    assert got == [ToySettings(seed=3, more=["a,b", "c"], amount=2)]


def test_doctor_knows_this_machine() -> None:
    found = examine()
    assert found["cores"] >= 1
    assert found["packages"]["torch"]
    text = render(found)
    assert "smollm2-135m-instruct" in text
    assert "GPUs" in text
