"""The site as files: safe addresses for any name, results that other versions or hands wrote, tables without scripts."""

import json
import string
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.reporting.columns import as_columns, as_rows
from biomistral.reporting.page import slug
from biomistral.reporting.record import read_record
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.site_data import SiteData
from biomistral.run import execute
from tiny_results import make_chain, make_results, rewrite

ODD = ["a/b\\c:d*?", "..", ".", "CON", "x" * 300, "模型 🩺", "نموذج", "\u202eevil", "line\nbreak", "a b", "a-b", "A-B", "a_b",
       "%2e%2e", "#q=1", "<b>&amp;</b>"]
LANGUAGES = {"languages": ("en", "pt", "ar"), "tasks": 2}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_chain(tmp_path_factory.mktemp("chain") / "run")


def built(out: Path, results: list[Path], **settings: Any) -> tuple[dict[str, Any], Any]:
    execute(ReportSettings(results=[str(folder) for folder in results], **settings), out)
    return read_record(json.loads((out / "results.json").read_text())), lxml_html.fromstring((out / "index.html").read_bytes())


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses."""
    monkeypatch.setattr(sys, "argv", ["biomistral", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    line = capsys.readouterr().err.strip()
    assert ended.value.code not in (0, None)
    assert "\n" not in line
    return line


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_slug_is_safe_and_one_name_s_own(name: str, other: str) -> None:
    safe = set(string.ascii_lowercase + string.digits + "._-")
    assert set(slug(name)) <= safe
    assert 0 < len(slug(name)) < 64
    assert slug(name)[0] not in ".-"
    assert name == other or slug(name) != slug(other)


@given(st.lists(st.text(min_size=1), min_size=3, max_size=3), st.lists(st.text(min_size=1), min_size=3, max_size=3))
def test_a_task_has_an_address_of_its_own(one: list[str], other: list[str]) -> None:
    assert one == other or SiteData.task_path(*one) != SiteData.task_path(*other)
    assert SiteData.task_path(*one) != SiteData.task_path(*one[:2])


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.sampled_from(["a", "b/~1", ""])
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner))


@given(st.lists(VALUES, max_size=4) | VALUES.flatmap(lambda value: st.lists(st.just(value), min_size=5, max_size=7)))
def test_columns_say_what_rows_say(rows: list[Any]) -> None:
    columns = json.loads(json.dumps(as_columns(rows)))
    assert json.dumps(as_rows(columns)) == json.dumps(rows)
    twice = [{"x": row, "y~/": row, "z": number} for number, row in enumerate(rows)]
    assert json.dumps(as_rows(json.loads(json.dumps(as_columns(twice))))) == json.dumps(twice)


@pytest.mark.parametrize("broken", [{"count": 3, "columns": {"a": [1, 2]}}, {"count": 1, "columns": {"a": "/b"}}, {"columns": {}},
                                    {"count": 2, "columns": {"a": 1}}])
def test_columns_that_are_none(broken: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        as_rows(broken)


def test_names_with_odd_characters(tmp_path: Path, chain: dict[str, Path]) -> None:
    results = [make_results(tmp_path, chain, name, out=f"r{number}", questions=8) for number, name in enumerate(ODD)]
    data, page = built(tmp_path / "site", results, baseline="..")
    assert sorted(row["model"] for row in data["boards"][0]["rows"]) == sorted(ODD)
    shown = page.xpath("//section[@id='board-0']//table[contains(@class, 'lean')]/tbody/tr/th/@data-sort")
    assert sorted(name.replace("\r\n", "\n") for name in shown) == sorted(ODD)
    assert len({slug(name).lower() for name in ODD}) == len(ODD)
    outside = [path for path in tmp_path.rglob("*.html") if not path.is_relative_to(tmp_path / "site")]
    assert outside == []


def test_numbers_without_scripts(tmp_path: Path, chain: dict[str, Path]) -> None:
    skills = {"a": 0.3, "b": 0.9}
    results = [make_results(tmp_path, chain, name, skill={"taught": skill}, **LANGUAGES) for name, skill in skills.items()]
    data, page = built(tmp_path / "site", results)
    board = data["boards"][0]
    slices = {part.get("data-language"): part for part in page.xpath("//div[contains(@class, 'slice')]")}
    assert list(slices) == ["", "en", "pt", "ar"]
    for row in board["rows"]:
        for language, part in slices.items():
            line, = (line for line in part.xpath(".//tbody/tr") if line.xpath("./th/@data-sort") == [row["model"]])
            keys = part.xpath(".//thead/tr/th/@data-key")
            cells = {key: " ".join(cell.text_content().split()) for key, cell in zip(keys, line.xpath("./*"), strict=True)}
            scores = row["languages"][language] if language else row
            low, high = scores["overall"]["interval"]
            assert cells["rank"] == str(row["ranks"][language] if language else row["rank"])
            accuracy = scores["overall"]["accuracy"]
            assert cells["all"].replace(" best", "") == f"{100 * accuracy:.1f} {100 * low:.1f}–{100 * high:.1f}"
            assert cells["task:task1"].startswith(f"{100 * scores['tasks']['task1']['accuracy']:.1f}")
            best = board["best"]["cells"][language]["task1"] if language else board["best"]["tasks"]["task1"]
            assert ("best" in cells["task:task1"]) == (best == row["model"])
    assert board["best"]["overall"] == "b"
    assert board["rows"][0]["ranks"] == {"en": 1, "pt": 1, "ar": 1}


def test_what_others_reported_is_marked_and_in_no_ranking(tmp_path: Path, chain: dict[str, Path]) -> None:
    _, page = built(tmp_path / "site", [make_results(tmp_path, chain, "base")])
    table, = page.xpath("//section[@id='published']//table")
    rows = table.xpath("./tbody/tr")
    assert len(rows) == 12
    assert all(row.xpath("./th/small[@class='reported']/text()") == ["reported"] for row in rows)
    assert "Rank" not in table.xpath("string(./thead)")
    ranked = page.xpath("//table[contains(@class, 'lean')]//tbody/tr/th/@data-sort")
    assert ranked == ["base"]


def test_one_without_scores_by_language(tmp_path: Path, chain: dict[str, Path]) -> None:
    """As a folder of an early version: asked the same, so in the same table, which then has none a language, and says so."""
    results = [make_results(tmp_path, chain, name, **LANGUAGES) for name in ("new", "early")]
    rewrite(results[1] / "results.json", lambda data: data["protocols"]["cloze-mean"].pop("languages"))
    data, page = built(tmp_path / "site", results)
    assert len(data["boards"]) == 1
    assert data["boards"][0]["without_languages"] == ["early"]
    assert len(page.xpath("//div[contains(@class, 'slice')]")) == 1
    assert "missing in the results of early" in " ".join(page.text_content().split())


def test_a_language_that_one_was_not_asked(tmp_path: Path, chain: dict[str, Path]) -> None:
    both = make_results(tmp_path, chain, "both", **LANGUAGES)
    one = make_results(tmp_path, chain, "one", languages=("en", "pt"), tasks=2)
    data, page = built(tmp_path / "site", [both, one])
    assert [[row["model"] for row in board["rows"]] for board in data["boards"]] == [["both"], ["one"]]
    assert [board["languages"] for board in data["boards"]] == [["en", "pt", "ar"], ["en", "pt"]]
    assert len(page.xpath("//div[contains(@class, 'slice')]")) == 4 + 3
    rewrite(one / "results.json", lambda data: data["protocols"]["cloze-mean"]["languages"].pop("pt"))
    with pytest.raises(UserError, match=r"languages: results.json says \['en'\], answers.parquet gives \['en', 'pt'\]"):
        built(tmp_path / "other", [one])


def test_results_of_another_version_are_told(tmp_path: Path, chain: dict[str, Path]) -> None:
    results = [make_results(tmp_path, chain, name) for name in ("a", "b", "c")]

    def older(manifest: dict[str, Any]) -> None:
        manifest["made"]["biomistral"], manifest["version"] = "0.0.9", 7

    rewrite(results[1] / "manifest.json", older)
    rewrite(results[1] / "results.json", lambda data: data.update(new_in_a_later_version={"x": 1}))
    _, page = built(tmp_path / "site", results)
    note = " ".join(page.xpath("//ul[@class='notes']")[0].text_content().split())
    assert "b by 0.0.9 (evaluate 7)" in note
    assert "c by" not in note
    _, page = built(tmp_path / "same", [results[0], results[2]])
    assert not page.xpath("//ul[@class='notes']")


def test_a_manifest_this_version_cannot_read(tmp_path: Path, chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_results(tmp_path, chain, "base")
    rewrite(folder / "manifest.json", lambda manifest: manifest.update(schema=99))
    line = refused(["report", str(folder), "--out", str(tmp_path / "site")], monkeypatch, capsys)
    assert "manifest schema 99, this version reads" in line
    assert not (tmp_path / "site").exists()


def test_half_written_runs(tmp_path: Path, chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:
    good, cut = make_results(tmp_path, chain, "good"), make_results(tmp_path, chain, "cut")
    answers = (cut / "answers.parquet").read_bytes()
    (cut / "answers.parquet").write_bytes(answers[:len(answers) // 2])
    command = ["report", str(good), str(cut), "--out", str(tmp_path / "site")]
    assert "answers.parquet: not a readable Parquet file" in refused(command, monkeypatch, capsys)
    table = pq.read_table(good / "answers.parquet")
    pq.write_table(table.slice(0, len(table) - 3), cut / "answers.parquet")
    assert "results.json is about 'cut', answers.parquet about ['good']" in refused(command, monkeypatch, capsys)
    (cut / "answers.parquet").unlink()
    assert "answers.parquet: no such file" in refused(command, monkeypatch, capsys)
    (cut / "manifest.json").unlink()
    assert "not a finished artifact" in refused(command, monkeypatch, capsys)
    pq.write_table(table.slice(0, len(table) - 3), good / "answers.parquet")
    assert "results.json says 80, answers.parquet gives 77" in refused([*command[:2], *command[3:]], monkeypatch, capsys)
    assert not (tmp_path / "site").exists()


def test_answers_given_twice(tmp_path: Path, chain: dict[str, Path]) -> None:
    import pyarrow as pa

    folder = make_results(tmp_path, chain, "base")
    table = pq.read_table(folder / "answers.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "answers.parquet")
    with pytest.raises(UserError, match="was not answered exactly once per shot set and permutation"):
        built(tmp_path / "site", [folder])


def test_one_name_twice(tmp_path: Path, chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    same = [str(make_results(tmp_path, chain, "same", out=str(skill), skill={"": skill})) for skill in (0.4, 0.6)]
    line = refused(["report", *same, "--out", str(tmp_path / "site")], monkeypatch, capsys)
    assert "'same' under cloze-mean is already in" in line


def test_shuffled_answers_are_the_same_questions(tmp_path: Path, chain: dict[str, Path]) -> None:
    results = [make_results(tmp_path, chain, name, skill={"taught": 0.4, "untaught": 0.6}, tasks=2) for name in ("a", "b")]
    plain, _ = built(tmp_path / "plain", results)
    table = pq.read_table(results[1] / "answers.parquet")
    pq.write_table(table.take(list(range(len(table) - 1, -1, -1))), results[1] / "answers.parquet")
    shuffled, _ = built(tmp_path / "shuffled", results)
    assert shuffled["boards"] == plain["boards"]
    assert len(shuffled["boards"]) == 1
