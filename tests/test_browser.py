"""The site in a browser, opened from disk: no error, nothing asked for outside it, switches that stand in the address, and no
serious fault for who uses a keyboard or a screen reader."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from biomistral.reporting.record import read_record
from biomistral.reporting.settings import ReportSettings
from biomistral.run import execute
from tiny_results import make_chain, make_results

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed (Debian: apt-get install chromium)")

EVIL = "<img src=x onerror=alert('x')>"
FORMULA = "=HYPERLINK(\"x\") \\(x^2\\)"
ARABIC = "نموذج عربي"
SHOWN = ".board-section.on .slice.on"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    chain = make_chain(folder)
    options = {"protocols": ["letters-0shot", "cloze-mean"], "tasks": 3, "languages": ("en", "pt", "ar")}
    results = [
        make_results(folder, chain, "base", **options), make_results(folder, chain, EVIL, **options),
        make_results(folder, chain, "new", "adapted", skill={"taught": 0.9, "untaught": 0.3}, **options),
        make_results(folder, chain, ARABIC, letter="B", mass=0.1, **options),
        make_results(folder, chain, FORMULA, **options),
        make_results(folder, chain, "alone", **{**options, "limit": 10, "questions": 10})]
    execute(ReportSettings(results=[str(path) for path in results], curves=[str(chain["adapted"])], title="Tiny & <b>small</b>",
                           notes=["Knowledge, not reasoning.", "ملاحظة"]), folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, what its console said and what it asked for."""

    def __init__(self, browser: Any, size: str = "desktop", theme: str = "light", **options: Any) -> None:
        width, height = SIZES[size]
        self.page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, **options).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path, state: str = "") -> Any:
        self.page.goto(path.as_uri() + state)
        return self.page

    def models(self) -> list[str]:
        """Names in the table that is shown, in the order of its rows."""
        names: list[str] = self.page.eval_on_selector_all(
            f"{SHOWN} tbody tr:not([hidden]) > th", "heads => heads.map(one => one.dataset.sort)")
        return names

    def columns(self) -> list[str]:
        keys: list[str] = self.page.eval_on_selector_all(
            f"{SHOWN} thead th", "heads => heads.filter(one => one.offsetParent).map(one => one.dataset.key)")
        return keys

    def state(self) -> str:
        return unquote(self.page.evaluate("location.hash"))


@pytest.fixture
def board(browser: Any, site: Path) -> Iterator[Visit]:
    visit = Visit(browser)
    visit.open(site / "index.html")
    yield visit
    assert visit.said == []
    visit.page.context.close()


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page(browser: Any, site: Path, size: str, theme: str) -> None:
    """No word in the console, no request but for the site's own files, no page wider than the screen, no serious fault by axe."""
    visit = Visit(browser, size, theme)
    for path, part in [*((path, "") for path in pages(site)), (next(site.glob("tasks/tiny--*.html")), "#in-ar")]:
        page = visit.open(path, part)
        assert visit.said == [], path
        assert all(url.startswith(site.as_uri()) for url in visit.asked), path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"
        assert page.title(), path
        found = axe.Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
        bad = [(one["id"], [node["html"][:120] for node in one["nodes"][:5]]) for one in found
               if one["impact"] in ("serious", "critical")]
        assert bad == [], path
    visit.page.context.close()


def test_numbers_are_those_of_the_record(board: Visit, site: Path) -> None:
    view = read_record(json.loads((site / "results.json").read_text(encoding="utf-8")))["boards"][0]
    for row in view["rows"]:
        shown = board.page.locator(f"{SHOWN} tbody tr", has=board.page.get_by_text(row["model"], exact=True)).first.inner_text()
        low, high = row["overall"]["interval"]
        assert f"{100 * row['overall']['accuracy']:.1f}" in shown
        assert f"{100 * low:.1f}–{100 * high:.1f}" in shown
        assert re.search(rf"\s{row['rank']}\s", shown)


def test_sorting_stands_in_the_address_and_survives_a_reload(board: Visit) -> None:
    first = board.models()
    head = board.page.locator(f"{SHOWN} th[data-key='group:untaught']")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert board.state() == "#sort=-group:untaught"
    board.page.locator(f"{SHOWN} th[data-key='model']").get_by_role("button").focus()
    board.page.keyboard.press("Enter")
    assert board.models() == sorted(first, key=str.lower) or board.models() != first
    by_name = board.models()
    assert board.state() == "#sort=model"
    board.page.reload()
    assert board.models() == by_name
    assert board.page.locator(f"{SHOWN} th[data-key='model']").get_attribute("aria-sort") == "ascending"


def test_searching_and_filtering(board: Visit) -> None:
    everyone = board.models()
    board.page.get_by_label("Search models").fill("NEW")
    assert board.models() == ["new"]
    assert board.page.get_by_role("status").inner_text() == f"1 of {len(everyone)} models shown."
    board.page.get_by_label("Search models").fill("onerror")
    assert board.models() == [EVIL]
    board.page.get_by_label("Search models").fill(ARABIC[:5])
    assert board.models() == [ARABIC]
    board.page.reload()
    assert board.models() == [ARABIC]
    board.page.get_by_label("without warnings only").check()
    assert board.models() == [], "that model has warnings"
    board.page.get_by_role("button", name="Reset").click()
    sync_api.expect(board.page.get_by_role("status")).to_have_text(f"{len(everyone)} of {len(everyone)} models shown.")
    assert board.state() == ""
    assert board.models() == everyone


def test_languages_tasks_and_protocols(board: Visit) -> None:
    board.page.get_by_label("Language").select_option("pt")
    assert board.columns()[:3] == ["model", "rank", "all"]
    assert "gap" in board.columns()
    board.page.locator("select[name=task]").select_option("task1")
    assert [key for key in board.columns() if key.startswith("task:")] == ["task:task1"]
    assert board.page.locator(f"{SHOWN} th[data-key='task:task1']").get_attribute("aria-sort") == "descending"
    board.page.get_by_label("Protocol").select_option(index=2)
    assert re.fullmatch(r"#board=cloze-mean~\w{12}&language=pt&task=task1", board.state())
    columns, models, state = board.columns(), board.models(), board.state()
    board.page.reload()
    assert (board.columns(), board.models(), board.state()) == (columns, models, state)
    assert board.page.locator(".board-section.on h2").inner_text() == "Cloze: the likeliest answer text per token"
    assert board.page.locator(".board-section.on code").first.inner_text() == "cloze-mean"


def test_rows_measured_otherwise_have_a_table_of_their_own(board: Visit) -> None:
    choices = board.page.get_by_label("Protocol").locator("option")
    assert choices.all_inner_texts() == [f"{name} · tiny, {count} questions" for name in ("letters-0shot", "cloze-mean")
                                         for count in (240, 60)], "two protocols, once of other questions"
    board.page.get_by_label("Protocol").select_option(index=1)
    assert board.models() == ["alone"]


def test_columns_are_hidden_and_a_shared_address_shows_the_same(board: Visit, browser: Any, site: Path) -> None:
    board.page.get_by_text("Columns", exact=True).click()
    board.page.get_by_label("Brier").uncheck()
    board.page.get_by_role("checkbox", name="task2").uncheck()
    assert not {"brier", "task:task2"} & set(board.columns())
    assert board.state() == "#hide=task:task2&hide=brier"
    other = Visit(browser)
    other.open(site / "index.html", board.page.evaluate("location.hash"))
    assert other.columns() == board.columns()
    other.page.evaluate("location.hash = 'q=base'")
    sync_api.expect(other.page.get_by_role("status")).to_have_text("1 of 5 models shown.")
    assert (other.models(), other.said) == (["base"], [])
    other.page.context.close()


@pytest.mark.parametrize("state", ["#q=%3Cimg%20src", "#board=nothing&language=xx&task=none&sort=-nothing&hide=%22%5D",
                                   "#=&&=%", "#board-1", "#nowhere"])
def test_any_address_is_taken(browser: Any, site: Path, state: str) -> None:
    visit = Visit(browser)
    visit.open(site / "index.html", state)
    assert visit.said == []
    assert visit.page.evaluate("performance.getEntriesByName('interactive').length") == 1
    expected = {"#board-1": ["alone"], "#q=%3Cimg%20src": [EVIL]}.get(state)
    assert visit.models() == (expected or visit.models())
    assert len(visit.models()) == (len(expected) if expected else 5)
    visit.page.context.close()


def test_theme_is_kept(board: Visit, site: Path) -> None:
    def ground() -> str:
        return str(board.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    board.page.get_by_role("button", name="Dark theme").click()
    dark = ground()
    assert dark != light
    board.open(site / "provenance.html")
    assert ground() == dark
    assert board.page.get_by_role("button", name="Light theme").is_visible()


def test_keyboard_alone(board: Visit) -> None:
    board.page.keyboard.press("Tab")
    assert board.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    board.page.keyboard.press("Enter")
    assert board.page.evaluate("document.activeElement.id") == "main"
    board.page.keyboard.press("Tab")
    assert board.page.evaluate("document.activeElement.name") == "q"
    board.page.keyboard.type("base")
    assert board.models() == ["base"]


def test_print_shows_the_table_without_switches(board: Visit) -> None:
    board.page.emulate_media(media="print", color_scheme="dark")
    assert not board.page.locator("form.controls").is_visible()
    assert not board.page.get_by_role("navigation", name="Pages").is_visible()
    assert board.page.evaluate("getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == "none"
    assert board.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"


def test_without_javascript(browser: Any, site: Path) -> None:
    visit = Visit(browser, java_script_enabled=False)
    page = visit.open(site / "index.html")
    assert not page.locator("form.controls").is_visible()
    tables = page.locator("table.lean")
    assert tables.count() == 4 * 4
    assert all(tables.nth(number).is_visible() for number in range(tables.count())), "each board and language"
    assert page.locator("figure > svg").first.is_visible()
    visit.page.context.close()


def test_a_tasks_languages_are_parts_of_its_page(browser: Any, site: Path) -> None:
    """One at a time, named by the address, with or without scripts; numbers of the model page lead to them."""
    for scripts in (True, False):
        visit = Visit(browser, java_script_enabled=scripts)
        page = visit.open(site / "tasks" / "tiny--task1.html")
        shown = page.locator("section.part:visible")
        sync_api.expect(shown.get_by_role("heading", level=2)).to_have_text("All languages")
        page.get_by_role("navigation", name="Languages").get_by_text("Arabic (ar)").click()
        sync_api.expect(shown.get_by_role("heading", level=2)).to_have_text("Arabic (ar)")
        assert visit.state() == "#in-ar"
        page.get_by_role("navigation", name="Protocols, ar").get_by_text("cloze-mean").first.click()
        sync_api.expect(shown).to_have_count(1)
        table = shown.get_by_role("table").first
        assert table.get_by_role("rowheader").count() == 5, "headers of rows need no scope to be known as such"
        assert table.get_by_role("columnheader").count() == 6
        visit.page.context.close()
    visit = Visit(browser)
    page = visit.open(next(site.glob("models/new*.html")))
    page.locator("table.tongues").first.locator("tbody tr").nth(1).locator("td a").nth(1).click()
    page.wait_for_url((site / "tasks" / "tiny--task1.html").as_uri() + "#in-pt", wait_until="load")
    sync_api.expect(page.locator("section.part:visible h2")).to_have_text("Portuguese (pt)")
    assert visit.said == []
    visit.page.context.close()
