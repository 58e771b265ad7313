"""What the documentation points at is there: pages, anchors, files of the repository, commands and their options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from biomistral import cli
from doc_pages import DOCS, PAGES, ROOT, blocks, name, prose

GENERATED = {"commands.md", "settings.md"}
"""Pages that docs/hooks/reference.py makes from the code when the site is built."""
README = ROOT / "README.md"
PEERS = DOCS / "coming-from.md"
"""Its tables name the options of other tools on the left and ours on the right."""


def anchors(page: Path) -> set[str]:
    """The headings of a page as mkdocs and GitHub name them."""
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower()))
            for line in prose(page).splitlines() if re.match(r"#+ ", line)}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target) or path in GENERATED or Path(path).name in GENERATED:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`((?:src|docs|perf|recipes|tests)/(?!inputs)[\w./-]*\w)`", prose(page)):
        assert (ROOT / path).exists(), f"{path}: no such file"
    for path in re.findall(r"`([\w]+(?:/\w+)+\.py)`", prose(page)):
        assert (ROOT / path).exists() or (ROOT / "src" / "biomistral" / path).exists(), f"{path}: no such file"


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path.strip(), command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{path} {word}")


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))
COMMANDS["merge"] = COMMANDS["merge file"]  # ``merge FILE`` stands for it
GROUPS = {path.split()[0] for path in COMMANDS}


def options(path: str) -> set[str]:
    return {word for one in COMMANDS[path].params for word in [*one.opts, *one.secondary_opts]} | {"--help"}


EVERY_OPTION = set().union(*(options(path) for path in COMMANDS))


def named(words: list[str]) -> str:
    """The command that the words after ``biomistral`` call; empty if there is none."""
    return next((path for path in (" ".join(words[:2]), *words[:1]) if path in COMMANDS), "")


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_commands_in_blocks_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the command line itself, and not run: those too that no test can run."""
    seen: list[str] = []
    for block in blocks(page):
        for step in block.steps:
            for call in re.findall(r"biomistral (?!\[)[^|&>]+", step.partition("\n")[0]):
                arguments = shlex.split(call, comments=True)[1:]
                app = typer.main.get_command(cli.app)
                _disarm(app)
                assert app.main(args=arguments, standalone_mode=False) in (None, 0), call
                seen.append(call)
    assert seen or not any("biomistral " in block.text for block in blocks(page))


def _disarm(command: Any) -> None:
    for _, leaf in leaves(command):
        leaf.callback = lambda **values: None


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^\|.*\|(?=[^|]*\|$)", "", prose(page), flags=re.MULTILINE) if page == PEERS else prose(page)
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.split()
        if words[0] == "biomistral" and len(words) > 1 and words[1] in GROUPS:
            _known(words[1:], code)
        elif named(words) and any(word.startswith("--") for word in words):
            _known(words, code)
        elif words[0].startswith("--"):
            assert set(_options_in(words)) <= EVERY_OPTION | TORCHRUN, f"{code}: no command has it"


TORCHRUN = {"--standalone", "--master-port", "--nproc-per-node", "--no-python"}


def _known(words: list[str], code: str) -> None:
    path = named(words)
    if path:
        assert set(_options_in(words)) <= options(path), f"{code}: unknown option"
    else:
        assert len(words) < 2 or not words[1].islower(), f"{code}: no such command"


def _options_in(words: list[str]) -> list[str]:
    return [word.partition("=")[0].rstrip(",;:.") for word in words if re.match(r"--\w", word)]
