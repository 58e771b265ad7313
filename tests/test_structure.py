"""The structure the README promises: its tree is true, imports run one way, nothing heavy at start-up."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "biomistral"
ROOMS = ("reporting", "evaluation", "quantization", "merging", "training", "corpus", "benchmarks", "chat")


def imports_of(path: Path) -> Iterator[str]:
    """Names inside biomistral that a module imports, e.g. ``models.load``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("biomistral"):
            rest = node.module.removeprefix("biomistral").lstrip(".")
            yield from [rest] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("biomistral.") for alias in node.names if alias.name.startswith("biomistral."))


def level(name: str) -> int:
    """0 base, 1 models, 2 scoring, 3 rooms, 4 run, sweep, forms, contamination, translation, doctor, cards, publishing, 5 the
    command line."""
    head = name.partition(".")[0]
    if head in ROOMS:
        return 3
    return {"models": 1, "scoring": 2, "run": 4, "sweep": 4, "forms": 4, "contamination": 4, "translation": 4, "doctor": 4,
            "cards": 4, "publishing": 4, "cli": 5}.get(head, 0)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    mine = path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
    for other in imports_of(path):
        if other == "__version__":
            continue
        same_room = mine.partition(".")[0] == other.partition(".")[0]
        assert level(other) < level(mine) or same_room or level(other) == level(mine) in (0, 4), f"{mine} imports {other}"


def listed_in_readme() -> set[str]:
    """Paths of the README's tree: one a line, its job after two spaces or more."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```tree\n(.*?)```", text, re.DOTALL)
    assert block, "the README has no ```tree block"
    paths, stack = set(), [""]
    for line in block.group(1).splitlines():
        name, _, job = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        assert job.strip(), f"{name} has no job in the README's tree"
        stack[depth + 1:] = [stack[depth] + name]
        if not name.endswith("/"):
            paths.add(stack[depth] + name)
    return paths


def test_the_readme_lists_every_file_with_its_job() -> None:
    files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()
    there = {path for path in files if (ROOT / path).is_file() and not path.startswith("perf/results/")}
    listed = listed_in_readme()
    assert sorted(there - listed) == [], "files the README's tree does not list"
    assert sorted(listed - there) == [], "lines of the README's tree that name no file"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = ("import sys; sys.argv = ['biomistral', '--help']\n"
            "from biomistral.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'transformers', 'pyarrow', 'lxml', 'plotly', 'scipy', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    started = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert time.perf_counter() - started < 5  # 0.5 s is measured in perf/; here only that nothing hangs
    assert "quickstart.yaml" in shown


def test_no_broad_except_and_no_print_in_the_library() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in ("Exception", "BaseException", "everything"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                assert path.parent.name == "cli", f"{path}:{node.lineno} prints"
