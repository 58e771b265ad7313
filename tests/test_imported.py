"""lm-eval's results beside ours: tables of their own, by protocol and definition; what is no such file is refused in a line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.reporting.compare import compare
from biomistral.reporting.imported import read_imported, tables
from biomistral.reporting.record import read_record
from biomistral.reporting.settings import ImportedResultsSettings, ReportSettings
from biomistral.run import execute
from biomistral.statistics import wilson
from tiny_results import make_chain, make_results

GENUINE = Path(__file__).parent / "lm_eval_results.json"
"""What lm-eval 0.4.13 wrote of a tiny model on two tasks and their group; without the machine's description and places."""


def write(path: Path, change: Any = None) -> Path:
    data = json.loads(GENUINE.read_text())
    if change is not None:
        change(data)
    path.write_text(json.dumps(data))
    return path


def bring(path: Path, out: Path, name: str = "") -> dict[str, Any]:
    return read_imported(execute(ImportedResultsSettings(file=str(path), name=name), out).path)


def test_a_genuine_file(tmp_path: Path) -> None:
    found = bring(GENUINE, tmp_path / "out")
    assert found["model"] == {"name": "pico", "dtype": "float32", "parameters": 106048}
    assert found["harness"] == "lm-eval 0.4.13"
    assert list(found["protocols"]) == ["lm-eval-3shot-acc", "lm-eval-3shot-acc_norm"]
    acc = found["protocols"]["lm-eval-3shot-acc"]
    assert list(acc["tasks"]) == ["tiny_anatomy", "tiny_genetics"]  # their group is a mean, no task
    assert acc["tasks"]["tiny_anatomy"] == {"n": 20, "accuracy": 0.25, "interval": pytest.approx(wilson(5, 20))}
    assert acc["average"] == 0.25
    assert acc["definition"]["tasks"]["tiny_anatomy"]["doc_to_text"].startswith("{{question.strip()}}\nA. ")
    assert acc["definition"]["limit"] == 20
    assert "models/" not in json.dumps(found)  # no place of the machine that measured it


def test_what_was_asked_otherwise_stands_in_another_table(tmp_path: Path) -> None:
    def better(data: dict[str, Any]) -> None:
        data["results"]["tiny_anatomy"]["acc,none"] = 0.5

    def reworded(data: dict[str, Any]) -> None:
        data["configs"]["tiny_anatomy"]["doc_to_text"] = "{{question}}"

    def zero_shot(data: dict[str, Any]) -> None:
        data["n-shot"] = dict.fromkeys(data["n-shot"], 0)

    def chat(data: dict[str, Any]) -> None:
        data["chat_template_sha"] = "abc"

    found = [bring(GENUINE, tmp_path / "genuine")]
    for change in (better, reworded, zero_shot, chat):
        found.append(bring(write(tmp_path / f"{change.__name__}.json", change), tmp_path / change.__name__, change.__name__))
    boards = [(board["protocol"], [row["model"] for row in board["rows"]]) for board in tables(found)
              if not board["protocol"].endswith("norm")]
    assert boards == [("lm-eval-3shot-acc", ["better", "pico"]), ("lm-eval-3shot-acc", ["reworded"]),
                      ("lm-eval-0shot-acc", ["zero_shot"]), ("lm-eval-3shot-acc", ["chat"])]


def _gone(field: str) -> Any:
    return lambda data: data.pop(field)


def _set(*path: Any) -> Any:
    def change(data: Any) -> None:
        *steps, last, value = path
        for step in steps:
            data = data[step]
        data[last] = value
    return change


BAD = [
    (_gone("n-samples"), "not a results file of lm-eval 0.4 (no 'n-samples')"),
    (_gone("lm_eval_version"), "not a results file of lm-eval 0.4 (no 'lm_eval_version')"),
    (_set("results", []), "not a results file of lm-eval 0.4 (no 'results')"),
    (_set("results", {}), "holds no accuracy"),
    (_set("results", "tiny_anatomy", "acc,none", "N/A"), "tiny_anatomy: acc,none: 'N/A' is no share of right answers"),
    (_set("results", "tiny_anatomy", "acc,none", float("nan")), "nan is no share"),
    (_set("results", "tiny_anatomy", "acc,none", 25.0), "25.0 is no share"),
    (_set("n-samples", "tiny_anatomy", "effective", 0), "0 questions; at least one was expected"),
    (_gone("model_name"), "does not say which model it is about; name it with --name"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_other_files_are_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        bring(write(tmp_path / "x.json", change), tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff"])
def test_files_that_are_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"x\.json: (cannot be read as JSON|not a results file)"):
        bring(tmp_path / "x.json", tmp_path / "out")


def test_beside_ours_on_the_page_but_in_no_table_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["biomistral", "results", "import", str(GENUINE), "--name", "<b>Zoé</b>", "--out",
                                      str(tmp_path / "theirs")])
    with pytest.raises(SystemExit):
        main()
    assert "(protocols 2, tasks 2)" in capsys.readouterr().out
    ours = make_results(tmp_path, make_chain(tmp_path), "base")
    made = execute(ReportSettings(results=[str(ours), str(tmp_path / "theirs")]), tmp_path / "site")
    view = read_record(json.loads((made.path / "results.json").read_text()))
    assert [row["model"] for board in view["boards"] for row in board["rows"]] == ["base"]
    assert [row["model"] for board in view["imported"] for row in board["rows"]] == ["<b>Zoé</b>"] * 2
    page = (made.path / "index.html").read_text()
    assert "never to be ranked with those rows" in page
    assert "&lt;b&gt;Zoé&lt;/b&gt;" in page
    assert "<b>Zoé</b>" not in page
    with pytest.raises(UserError, match="imported results stand beside measured ones"):
        execute(ReportSettings(results=[str(tmp_path / "theirs")]), tmp_path / "alone")
    with pytest.raises(UserError, match="holds an artifact of kind reported; one of kind evaluate is needed here"):
        compare(ours, [tmp_path / "theirs"])
