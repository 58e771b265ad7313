"""Every shell block of the documentation, run as by a reader who has made the quickstart; its model is a pico one here."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biomistral import cli
from doc_pages import DOCS, PAGES, ROOT, Block, blocks, name
from test_flow import write_inputs

RUN = [page for page in PAGES if any(not block.why for block in blocks(page))]


def call(arguments: list[str]) -> None:
    """Run the command line in this process: a command costs a moment instead of the seconds of an interpreter."""
    said = io.StringIO()
    with pytest.raises(SystemExit) as caught, contextlib.redirect_stderr(said):
        cli.app(args=arguments)
    assert not caught.value.code, f"biomistral {shlex.join(arguments)}\n{said.getvalue()[-2000:]}"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart has been run, in small: ``runs/quickstart`` and ``recipes``."""
    folder = tmp_path_factory.mktemp("docs")
    recipe = write_inputs(folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    call(["run", str(recipe), "--out", str(folder / "runs" / "quickstart"), "--workers", "1"])
    return folder


def run(step: str, folder: Path) -> None:
    """A command of ours in this process; what needs a shell (pipes, here-documents) by one."""
    before, _, command = step.partition(" | ")
    if command.startswith("biomistral "):
        typed = subprocess.run(["bash", "-ec", before], cwd=folder, capture_output=True, text=True, check=True).stdout
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdin", io.StringIO(typed))
            call(shlex.split(command)[1:])
        return
    words = shlex.split(step, comments=True)
    if words[0] == "biomistral" and not {"|", ">", "<", "&"} & set(words):
        call(words[1:])
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-ec", step], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, f"{step}\n{done.stderr[-2000:]}"


@pytest.fixture
def here(quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the quickstart's, and nothing of what other pages made."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(quickstart / "runs" / "quickstart")
    (tmp_path / "recipes").symlink_to(quickstart / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(quickstart / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands_of_a_page_work(page: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        for step in [] if block.why else block.steps:
            run(step, here)
            shown = capsys.readouterr().out
            assert shown.strip() or not step.startswith("biomistral"), f"{step} printed nothing"


def test_the_python_of_the_pages_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "api.md", "exec"), {})
    assert "questions" in capsys.readouterr().out


def test_blocks_are_read_as_a_shell_reads_them() -> None:
    text = "# a remark\nbiomistral run \\\n    R\ncat > f <<'END'\na \\\nEND\n\nbiomistral doctor  # says\n"
    assert Block(ROOT, text, "").steps == ["biomistral run R", "cat > f <<'END'\na \\\nEND", "biomistral doctor  # says"]


STAGES = ("recipes", "lineage", "model", "benchmark", "translate", "corpus", "pretrain", "finetune", "merge", "quantize",
          "evaluate", "languages", "api-engine", "compare", "chat")


def test_every_stage_has_a_page_whose_commands_run() -> None:
    assert {f"guide/{stage}.md" for stage in STAGES} <= {name(page) for page in RUN}
