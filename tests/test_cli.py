"""The command line: options made from settings, exit codes, one-line errors, machine-readable output."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biomistral import cli, run
from biomistral.doctor import examine, render
from biomistral.options import command_for
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


COMMANDS = [["run"], ["pretrain"], ["finetune"], ["merge"], ["quantize"], ["evaluate"], ["report"], ["compare"],
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
