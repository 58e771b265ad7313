"""Exports: what is written is read back the same; no name is a formula or a command; marks are the paired test's."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.reporting.compare import discordant
from biomistral.reporting.exports import latex, papers_with_code, sheets
from biomistral.reporting.exports.export import export, read_export
from biomistral.reporting.exports.scores import Score, as_reported, of_reported, read
from biomistral.reporting.imported import read_imported, tables
from biomistral.reporting.record import read_record
from biomistral.reporting.settings import ImportedResultsSettings, ReportSettings
from biomistral.run import execute
from biomistral.statistics import mcnemar
from tiny_results import make_chain, make_results

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
NAME = TEXT.filter(bool)
SHARE = st.floats(0, 1)
HARD = ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "'quoted",
        "a & b_c 100% {x} \\ # $ ~ ^", "名前 العربية ñ", 'say "x", y', "two\nlines", "[x]", "*", "<b>bold</b>", "a---b", "\ttab"]


@st.composite
def scores(draw: Any) -> Score:
    accuracy = draw(SHARE)
    known = draw(st.booleans())
    return Score(draw(NAME | st.sampled_from(HARD)), draw(TEXT), draw(TEXT), draw(NAME), draw(TEXT), draw(NAME),
                 draw(st.none() | st.integers(1, 10**6)), accuracy, accuracy * draw(SHARE) if known else None,
                 accuracy + (1 - accuracy) * draw(SHARE) if known else None, draw(st.none() | SHARE), draw(TEXT))


LISTS = st.lists(scores(), min_size=1, max_size=6, unique_by=lambda score: (score.model, score.table, score.task))


def in_order(found: list[Score]) -> list[Score]:
    return sorted(found, key=repr)


# ---- there and back ---------------------------------------------------------------------------------------------------


@given(LISTS)
def test_csv_there_and_back(found: list[Score]) -> None:
    assert sheets.read(sheets.write(found), "x.csv") == found
    assert sheets.read("\ufeff" + sheets.write(found), "x.csv") == found


@given(LISTS)
def test_papers_with_code_there_and_back(found: list[Score]) -> None:
    data = json.loads(json.dumps(papers_with_code.write(found, ("A paper", "https://example.org"))))
    assert in_order(papers_with_code.read(data, "x.json")) == in_order(found)


@given(LISTS)
def test_an_imported_folder_holds_the_same_scores(found: list[Score]) -> None:
    assert in_order(of_reported(json.loads(json.dumps(as_reported(found))))) == in_order(found)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("exports")
    chain = make_chain(folder)
    skills = {"weak & small_1": 0.1, "=cmd()": 0.5, "stärk": 0.95}
    return [make_results(folder, chain, name, tasks=2, shot_sets=3, protocols=("letters-3shot", "cloze-mean"),
                         skill={"taught": skill, "untaught": skill}, questions=100) for name, skill in skills.items()]


@pytest.mark.parametrize("form", ["csv", "json", "pwc"])
def test_through_files_and_the_import_stage(folders: list[Path], tmp_path: Path, form: Any) -> None:
    suffix = "csv" if form == "csv" else "json"
    written = export(folders, form, tmp_path / f"first.{suffix}")
    assert len(written) == 3 * 2 * 2
    assert {score.origin for score in written} == {"biomistral 0.1.0"}
    execute(ImportedResultsSettings(file=str(tmp_path / f"first.{suffix}")), tmp_path / "back")
    again = export([tmp_path / "back"], form, tmp_path / f"second.{suffix}")
    assert in_order(again) == in_order(written)
    if form != "pwc":  # a list of datasets comes back in another order
        assert {*(tmp_path / f"second.{suffix}").read_text().splitlines()} == {
            *(tmp_path / f"first.{suffix}").read_text().splitlines()} or form == "json"
    export([tmp_path / "back", folders[0]], form, tmp_path / f"both.{suffix}")  # imported ones stand beside measured ones


def test_imported_scores_stand_in_tables_of_their_own(folders: list[Path], tmp_path: Path) -> None:
    export(folders, "csv", tmp_path / "x.csv")
    execute(ImportedResultsSettings(file=str(tmp_path / "x.csv")), tmp_path / "back")
    boards = tables([read_imported(tmp_path / "back")])
    assert [(board["protocol"], board["harness"], len(board["rows"])) for board in boards] == [
        ("letters-3shot", "biomistral 0.1.0", 3), ("cloze-mean", "biomistral 0.1.0", 3)]
    measured, found = read(folders)
    hashes = {run.summary.definition_hash for results in measured for run in results.runs.values()}
    assert not hashes & {board["definition_hash"] for board in boards}, "no imported table can be taken for a measured one"
    assert len(found) == 12


def test_our_own_results_json_counts_as_reported(folders: list[Path], tmp_path: Path) -> None:
    execute(ImportedResultsSettings(file=str(folders[2] / "results.json"), name="theirs"), tmp_path / "back")
    found = of_reported(read_imported(tmp_path / "back"))
    assert {(score.model, score.origin) for score in found} == {("theirs", "biomistral, without its answers")}
    assert len(found) == 4


@pytest.mark.parametrize("first_form", [False, True])
def test_a_sites_results_json_is_read_again(folders: list[Path], tmp_path: Path, first_form: bool) -> None:
    execute(ReportSettings(results=[str(folder) for folder in folders]), tmp_path / "site")
    file = tmp_path / "site" / "results.json"
    if first_form:
        data = read_record(json.loads(file.read_text(encoding="utf-8")))
        data.pop("format")
        file.write_text(json.dumps(data), encoding="utf-8")
    execute(ImportedResultsSettings(file=str(file)), tmp_path / "back")
    found = {(score.model, score.protocol, score.task): score for score in of_reported(read_imported(tmp_path / "back"))}
    measured = {(score.model, score.protocol, score.task): score for score in read(folders)[1]}
    assert set(found) == set(measured)
    for key, score in measured.items():
        assert (found[key].questions, found[key].definition_hash) == (score.questions, score.definition_hash)
        mine, theirs = ((one.accuracy, one.low, one.high) for one in (found[key], score))
        assert mine == pytest.approx(theirs, abs=1e-5)
        assert found[key].spread == (score.spread and pytest.approx(score.spread, abs=1e-5))
    file.write_text(json.dumps({"title": "", "boards": [{"rows": {"count": 2, "columns": {"a": [1, 2, 3]}}}], "lineage": []}))
    with pytest.raises(UserError, match="not what 'report' writes"):
        read_export(file)


GENUINE = [{
    "task": "Question Answering", "categories": ["Natural Language Processing"], "description": "", "source_link": None,
    "synonyms": [], "datasets": [], "subtasks": [{
        "task": "Medical QA", "subtasks": [], "datasets": [{
            "dataset": "PubMedQA", "subdatasets": [], "sota": {"metrics": ["Accuracy"], "rows": [
                {"model_name": "GPT-4", "paper_title": "One", "paper_url": "u", "metrics": {"Accuracy": "80.4"}},
                {"model_name": "GPT-4", "paper_title": "Two", "paper_url": "v", "metrics": {"Accuracy": "75.2%", "F1": "x"}},
                {"model_name": "Flan", "paper_title": "Three", "paper_url": "w", "metrics": {"F1": "1"}}]}}]}]}]


def test_tables_of_the_site_itself() -> None:
    found = papers_with_code.read(GENUINE, "x.json")
    assert [(score.model, score.task, score.accuracy, score.protocol, score.origin) for score in found] == [
        ("GPT-4", "PubMedQA", 0.804, "reported: Accuracy", "Papers with Code"),
        ("GPT-4 (Two)", "PubMedQA", pytest.approx(0.752), "reported: Accuracy", "Papers with Code")]
    board, = tables([as_reported(found)])
    assert [row["model"] for row in board["rows"]] == ["GPT-4", "GPT-4 (Two)"]
    assert board["rows"][0]["scores"]["PubMedQA"]["interval"] is None  # nobody said of how many questions


def test_scores_without_intervals_on_the_page(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "tables.json").write_text(json.dumps(GENUINE))
    execute(ImportedResultsSettings(file=str(tmp_path / "tables.json")), tmp_path / "theirs")
    site = execute(ReportSettings(results=[str(folders[0]), str(tmp_path / "theirs")]), tmp_path / "site").path
    page = (site / "index.html").read_text()
    assert "GPT-4 (Two)" in page
    assert "n = not said" in page
    assert "reported: Accuracy" in page


def test_what_is_written_has_the_sites_layout(folders: list[Path]) -> None:
    task, = papers_with_code.write(read(folders)[1], ("Title", "https://example.org/p"))
    assert {"task", "description", "categories", "datasets", "subtasks", "synonyms", "source_link"} == task.keys()
    for dataset in task["datasets"]:
        assert {"dataset", "description", "dataset_citations", "dataset_links", "subdatasets", "sota"} == dataset.keys()
        values = [float(row["metrics"]["Accuracy"]) for row in dataset["sota"]["rows"]]
        assert values == sorted(values, reverse=True)
        assert all(row["paper_url"] == "https://example.org/p" for row in dataset["sota"]["rows"])
    assert len({dataset["dataset"] for dataset in task["datasets"]}) == 4  # two tasks, each under two protocols


# ---- escaping ---------------------------------------------------------------------------------------------------------


@given(LISTS)
def test_no_cell_is_a_formula(found: list[Score]) -> None:
    for row in csv.reader(io.StringIO(sheets.write(found), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row)
        assert len(row) == len(sheets.COLUMNS)


def unescaped(text: str) -> str:
    back = {value: mark for mark, value in latex._ESCAPES.items()} | {"-{}": "-", ",{}": ","}
    return re.sub("|".join(re.escape(value) for value in sorted(back, key=len, reverse=True)), lambda m: back[m[0]], text)


@given(st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(HARD))
def test_latex_prints_what_was_meant(text: str) -> None:
    shown = latex.escape(text)
    assert unescaped(shown) == "".join(mark for mark in normalize("NFC", " ".join(text.split())) if mark.isprintable())
    bare = re.sub(r"\\text[a-z]+\{\}|\\[{}&%$#_]|\{[\[\]*]\}|[-,]\{\}", "", shown)
    assert "--" not in shown
    assert ",," not in shown  # a low quotation mark in T1
    assert not set(bare) & set("\\{}&%$#_~^<>|[]*\n")


def test_latex_table(folders: list[Path], tmp_path: Path) -> None:
    export(folders, "latex", tmp_path / "t.tex")
    text = (tmp_path / "t.tex").read_text()
    assert text.count("\\begin{tabular}{lccc}") == 2
    assert "weak \\& small\\_1 & " in text
    row = next(line for line in text.splitlines() if line.startswith("stärk"))
    cell = r"\\textbf\{\d+\.\d \$\\pm\$ \d+\.\d\}"
    assert re.fullmatch(rf"stärk & {cell} & {cell} & \d+\.\d \\\\", row)
    assert text.count("\\underline{") == 4  # the second is better than the third in both tasks, under both protocols
    for line in text.splitlines():
        if line.endswith("\\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 3


ESCAPED = {
    "a_b": r"a\_b", "5%": r"5\%", "a & b": r"a \& b", "#1": r"\#1", "~": r"\textasciitilde{}", "2^3": r"2\textasciicircum{}3",
    r"\input{x}": r"\textbackslash{}input\{x\}", "[x]": "{[}x{]}", "a--b": "a-{}-b", "a,,b": "a,{},b", "$x$": r"\$x\$",
    "<b>|": r"\textless{}b\textgreater{}\textbar{}", "e\u0301\u202e": "\u00e9", "é ł ő ß": "é ł ő ß", "العربية": "العربية"}


def of_models(names: list[str], protocols: int = 1) -> str:
    return latex.write([], [Score(name, "b_1 & co", "test", f"5% #{protocol}", "", f"t_{task}^2", 10, 0.5, None, None, None, "~")
                            for protocol in range(protocols) for name in names for task in range(2)])


def test_latex_by_hand() -> None:
    for text, shown in ESCAPED.items():
        assert latex.escape(text) == shown
    plain = of_models([name for name in ESCAPED if name != "العربية"])
    assert "lualatex" not in plain
    beyond = of_models(["العربية", "β"])
    assert "cannot set with these (U+03B2, U+0627, U+0628, U+0629, U+0631, ...): compile with lualatex" in beyond
    assert all(line.startswith("%") for line in beyond.partition("\n\n")[0].splitlines())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex: apt-get install texlive-latex-base")
def test_latex_compiles(tmp_path: Path) -> None:
    known = [chr(number) for number in range(0x2200) if latex._KNOWN.fullmatch(chr(number)) and chr(number).isprintable()]
    names = ["".join(known[start:start + 20]) for start in range(0, len(known), 20)]
    text = of_models([*names, *(name for name in ESCAPED if name != "العربية")]) + of_models(["many tables"], 120)
    (tmp_path / "table.tex").write_text(text)
    (tmp_path / "page.tex").write_text(r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,textcomp,graphicx}"
                                       r"\begin{document}\input{table}\end{document}")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-draftmode", "page.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert b"Missing character" not in done.stdout


def test_the_papers_own_results(folders: list[Path], tmp_path: Path) -> None:
    written = export(folders[:1], "latex", tmp_path / "t.tex", with_published=True)
    theirs = [score for score in written if score.origin == "arXiv 2402.10373"]
    assert len(theirs) == 12 * 10
    row = next(line for line in (tmp_path / "t.tex").read_text().splitlines() if line.startswith("BioMistral 7B DARE"))
    assert row == "BioMistral 7B DARE & 62.3 & 67.0 & 55.8 & 61.4 & 66.9 & 58.0 & 51.1 & 45.2 & 77.7 & 48.7 & 59.4 \\\\"
    text = (tmp_path / "t.tex").read_text()
    assert "Clinical KG & Medical Genetics & Anatomy & Pro Medicine" in text
    assert "\\textbf" not in text.partition("as reported by")[2]  # there is nothing to test them with


def test_marks_are_the_paired_tests(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    near = [make_results(tmp_path, chain, name, skill={"taught": skill}, questions=60) for name, skill in
            (("a", 0.50), ("b", 0.53), ("c", 0.1))]
    runs = [run for results in read(near)[0] for run in results.runs.values()]
    best, second = latex.marks(runs, "task0")
    p = mcnemar(*discordant(runs[1], runs[0], "task", "task0"))
    assert p > 0.05
    assert best is None
    assert second is None
    assert latex.marks([runs[1], runs[2]], "task0") == (runs[1], None)  # of two, the lesser one is last, not second
    assert latex.marks(runs[:1], "task0") == (None, None)


# ---- bad input --------------------------------------------------------------------------------------------------------

HEADER = "model,protocol,task,accuracy"
BAD = [
    ("x.csv", "", "x.csv: not a results file: no column 'model'"),
    ("x.csv", "model,protocol,task\na,b,c\n", "no column 'accuracy'"),
    ("x.csv", f"{HEADER},extra\na,b,c,0.5,1\n", "unknown column 'extra'"),
    ("x.csv", f"{HEADER}\na,b,c\n", "row 2 has 3 cells, the header 4"),
    ("x.csv", f"{HEADER}\na,b,c,72.5\n", "row 2: accuracy: '72.5' is no share"),
    ("x.csv", f"{HEADER}\na,b,c,nan\n", "accuracy: 'nan' is no share"),
    ("x.csv", f"{HEADER}\na,,c,0.5\n", "row 2: has no 'protocol'"),
    ("x.csv", f"{HEADER},low,high\na,b,c,0.5,0.6,0.7\n", "not inside its interval"),
    ("x.csv", f"{HEADER},low\na,b,c,0.5,0.4\n", "not inside its interval"),
    ("x.csv", f"{HEADER},questions\na,b,c,0.5,1.5\n", "is no number of questions"),
    ("x.csv", f"{HEADER}\n", "holds no score"),
    ("x.csv", f'{HEADER}\n"a,b,c,0.5\n', "cannot be read as CSV"),
    ("x.csv", f"{HEADER}\na,b,c,0.5\na,b,c,0.6\n", "'a' has two scores of 'c' under 'b'"),
    ("x.json", json.dumps({"format": "biomistral results 1", "scores": [3]}), "3 is no score"),
    ("x.json", json.dumps([{"task": "t", "datasets": [{"dataset": "d"}]}]), "a dataset without name or 'sota'"),
    ("x.json", json.dumps([{"task": "t", "datasets": [{"dataset": "d", "sota": {"rows": []}}]}]), "holds no accuracy"),
    ("x.json", json.dumps([{"task": "t", "datasets": [{"dataset": "d", "sota": {"rows": [
        {"model_name": "m", "metrics": {"Accuracy": "high"}}]}}]}]), "'high' is no percentage"),
    ("x.json", json.dumps({"model": {}, "benchmark": {}, "protocols": {}}), "x.json: model.name: field required"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        execute(ImportedResultsSettings(file=str(tmp_path / name)), tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_name_for_several_models(folders: list[Path], tmp_path: Path) -> None:
    export(folders, "json", tmp_path / "x.json")
    with pytest.raises(UserError, match="is about 3 models"):
        execute(ImportedResultsSettings(file=str(tmp_path / "x.json"), name="one"), tmp_path / "out")


KEYS = ["task", "datasets", "dataset", "sota", "rows", "model_name", "metrics", "format", "scores", "subtasks", "Accuracy"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda one: st.lists(one, max_size=3) |
                    st.dictionaries(st.sampled_from(KEYS), one, max_size=4), max_leaves=12).map(lambda one: [
                        {"task": "t", "datasets": [{"dataset": "d", "sota": {"rows": one}}], "subtasks": [one]}]))
def test_any_json_is_read_or_refused(tmp_path: Path, data: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(data))
    found: list[Score] | None = None
    with suppress(UserError):  # and nothing else
        found = read_export(tmp_path / "x.json")
    assert found is None or all(0 <= score.accuracy <= 1 for score in found)


def test_the_commands(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                      monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["results", "export", *map(str, folders), "--format", "csv", "--out", str(tmp_path / "x.csv")]
    monkeypatch.setattr(sys, "argv", ["biomistral", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "12 scores of 3 models" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["biomistral", "results", "import", str(tmp_path / "x.csv"), "--out", str(tmp_path / "in")])
    with pytest.raises(SystemExit):
        main()
    assert "models 3" in capsys.readouterr().out
    assert replace(of_reported(read_imported(tmp_path / "in"))[0], model="x").model == "x"
