"""The page in a browser: opened from disk it logs no error, draws its charts, and shows the numbers of results.json."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from lxml import html as lxml_html

from biomistral.reporting.settings import ReportSettings
from biomistral.run import execute
from tiny_results import make_chain, make_results

BROWSER = shutil.which("chromium")
EVIL = "<script>alert('x')</script>"
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--virtual-time-budget=8000", "--enable-logging=stderr", "--v=0"]
CLICK = """document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("#board-0 thead button")[1].click());"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    chain = make_chain(folder)
    options = {"protocols": ["letters-0shot", "cloze-mean"]}
    results = [make_results(folder, chain, "base", **options), make_results(folder, chain, EVIL, **options),
               make_results(folder, chain, "new", "adapted", skill={"taught": 0.8, "untaught": 0.3}, **options)]
    execute(ReportSettings(results=[str(path) for path in results], curves=[str(chain["adapted"])]), folder / "site")
    return folder / "site"


def _opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's document after its scripts ran, and the lines its console logged."""
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Uncaught" in line]


def _check_numbers(text: str, site: Path) -> None:
    page = lxml_html.fromstring(text)
    for number, board in enumerate(json.loads((site / "results.json").read_text())["boards"]):
        rows = {row.xpath("./th/@data-sort")[0]: " ".join(row.text_content().split())
                for row in page.xpath(f"//section[@id='board-{number}']//table[@class='board']/tbody/tr")}
        for row in board["rows"]:
            shown = rows[row["model"]]
            for score in (row["overall"], *row["groups"].values()):
                low, high = score["interval"]
                assert f"{100 * score['accuracy']:.1f} % {100 * low:.1f} – {100 * high:.1f}" in shown
            if row["difference"]:
                assert f"{100 * row['difference']['difference']:+.1f}".replace("-", "−").replace("+0.0", "0.0") in shown
            assert f"{row['calibration']['ece']:.1f} {row['calibration']['brier']:.3f}" in shown


def test_page_without_javascript(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    _check_numbers(text, site)
    page = lxml_html.fromstring(text)
    assert len(page.xpath("//figure/*[name() = 'svg']")) == len(page.xpath("//figure")) == 5, "drawn without scripts"
    names = {text.text_content() for text in page.xpath("//figure[@id='accuracy-0']//*[name() = 'text']")}
    assert {"base", "new", EVIL[:23] + "…"} < names


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed; the page was checked without scripts only")
def test_page_in_chromium(site: Path, tmp_path: Path) -> None:
    text, errors = _opened(site / "index.html", tmp_path / "profile")
    assert errors == [], errors
    _check_numbers(text, site)
    page = lxml_html.fromstring(text)
    assert len(page.xpath("//figure")) == 5
    assert not page.xpath("//script[starts-with(text(), 'alert')]")


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed; the page was checked without scripts only")
def test_columns_sort(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (copy / "assets" / "click.js").write_text(CLICK)
    page = (copy / "index.html").read_text(encoding="utf-8")
    script = '<script src="assets/click.js" defer></script></body>'
    (copy / "index.html").write_text(page.replace("</body>", script), encoding="utf-8")
    text, errors = _opened(copy / "index.html", tmp_path / "profile")
    document = lxml_html.fromstring(text)
    shown = [float(cell) for cell in document.xpath("//section[@id='board-0']//table[@class='board']/tbody/tr/td[1]/@data-sort")]
    assert errors == [], errors
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == 3
    assert document.xpath("//section[@id='board-0']//th[@aria-sort='descending']")
