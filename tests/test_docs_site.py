"""The documentation as a site: built strictly, complete, and without anything from elsewhere."""

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from biomistral.recipe import Machine, Recipe, Settings
from biomistral.run import KINDS, settings_class
from doc_pages import DOCS, PAGES, ROOT, name

needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
                                  reason="mkdocs is not installed: pip install 'biomistral[docs]', as make test does")


def in_navigation(entries: list[object]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found |= in_navigation(value) if isinstance(value, list) else {value}
    return found


def test_every_page_stands_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert in_navigation(settings["nav"]) == {name(page) for page in PAGES} | {"commands.md", "settings.md"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # who asks the network, gets nothing
    environment = {**os.environ, **proxy, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@needs_mkdocs
def test_the_site_is_built_and_fetches_nothing(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?(https?:|//)[^>]*>", text)
        assert not [tag for tag in loaded if "canonical" not in tag], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


@needs_mkdocs
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_the_search_finds_pages_opened_from_the_disk(site: Path, tmp_path: Path) -> None:
    page = f"{(site / 'guide' / 'merge.html').as_uri()}?q=quantise"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
               "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", page]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search(r"\d+ matching documents", shown.stdout), shown.stderr[-2000:]
    assert "CONSOLE" not in shown.stderr


@needs_mkdocs
def test_lists_and_tables_are_no_text(site: Path) -> None:
    """A list or a table that follows a paragraph without an empty line is a list on GitHub and a heap of words here."""
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", page.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"^\s*(?:[-*] |\d+\. |\|)", paragraph, re.MULTILINE), f"{page.name}: {paragraph[:200]}"


def settings_within(model: type[Settings]) -> set[type[Settings]]:
    """A settings class and all that its fields hold, however deep in lists and alternatives."""
    found, waiting = {model}, [field.annotation for field in model.model_fields.values()]
    while waiting:
        annotation = waiting.pop()
        waiting += typing.get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Settings) and annotation not in found:
            found |= settings_within(annotation)
    return found


@needs_mkdocs
def test_every_setting_there_is_stands_on_its_page(site: Path) -> None:
    page = (site / "settings.html").read_text(encoding="utf-8")
    rows = set(re.findall(r"<td><code>(?:[a-z_]+(?:\[\])?\.)*([a-z_]+)</code></td>", page))
    roots = [Recipe, Machine, *map(settings_class, KINDS)]
    classes = set().union(*map(settings_within, roots))
    assert {"Requests", "SecondServer", "SourceSettings", "TeachSettings"} <= {one.__name__ for one in classes}
    for one in classes:
        for setting, field in one.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
            assert nested or setting in rows, f"{one.__name__}.{setting}"
            assert nested or field.description, f"{one.__name__}.{setting} is not described"
    assert "<code>sources[].repeat</code>" in page
    assert "<code>requests.max_cost</code>" in page


@needs_mkdocs
def test_commands_settings_and_functions_are_described_from_the_code(site: Path) -> None:
    commands = html.unescape((site / "commands.html").read_text(encoding="utf-8"))
    assert "biomistral benchmark translate" in commands
    assert "answers are kept and found again, by the hashes of weights and prompts" in commands
    assert "peak learning rate of AdamW" in (site / "settings.html").read_text(encoding="utf-8")
    assert "Not run by the tests: needs eight GPUs." in (site / "guide" / "pretrain.html").read_text(encoding="utf-8")
    api = (site / "api.html").read_text(encoding="utf-8")
    assert 'id="biomistral.run.execute"' in api
    assert "Raises" in api
