"""Every command of the README, run as a reader would run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands() -> list[str]:
    """The lines of the README's shell blocks; ``make`` targets are run by hand and by continuous integration."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("make ")]


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    assert len(commands()) >= 10
    for command in commands():
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        assert done.stdout.strip(), f"{command} printed nothing"


def test_make_targets_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", text, re.MULTILINE):
        assert f"\n{target}:" in makefile
