"""Anyone's own questions: columns by name, answers as they are marked, nothing guessed."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.artifact import Artifact
from biomistral.benchmarks.settings import OwnQuestionsSettings
from biomistral.errors import UserError
from biomistral.records import Question, read_questions
from biomistral.run import execute

ROWS: list[dict[str, Any]] = [
    {"nr": "q1", "Frage": "Was hilft bei Fieber?", "a": "Paracetamol", "b": "Insulin", "c": "Heparin", "right": "A", "n": 1,
     "set": "test"},
    {"nr": "q2", "Frage": "Quelle vitamine « C » ?", "a": "rétinol", "b": "acide ascorbique", "c": "", "right": "b ", "n": 2,
     "set": "test"},
    {"nr": "q3", "Frage": "为什么?", "a": "1", "b": "2", "c": "3", "right": "C", "n": 3, "set": "dev"},
]
EXPECTED = [("q1", ("Paracetamol", "Insulin", "Heparin"), "A"), ("q2", ("rétinol", "acide ascorbique"), "B"),
            ("q3", ("1", "2", "3"), "C")]
COLUMNS = {"stem": "Frage", "options": ["a", "b", "c"], "answer": "right", "id": "nr", "split_column": "set"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(out.getvalue(), encoding="utf-8-sig", newline="")
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


def bring(place: Path, out: Path, **columns: Any) -> tuple[Artifact, list[Question]]:
    made = execute(OwnQuestionsSettings(files=[str(place)], task="ward", **columns), out)
    return made, read_questions(made.path / "questions.parquet")


def plain(questions: list[Question]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(question.id.removeprefix("ward/"), question.options, question.answer) for question in questions]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_questions(tmp_path: Path, suffix: str) -> None:
    made, questions = bring(write(tmp_path / f"mine.{suffix}", ROWS), tmp_path / "out", **COLUMNS, licence="CC0", language="de")
    assert plain(questions) == EXPECTED
    assert [(one.split, one.language, one.task) for one in questions] == [("test", "de", "ward")] * 2 + [("dev", "de", "ward")]
    about = json.loads((made.path / "benchmark.json").read_text())
    assert about == {"name": "ward", "tasks": {"ward": {"dev": 1, "validation": 0, "test": 2, "licence": "CC0",
                                                       "source": f"mine.{suffix}"}}}
    assert made.manifest["licences"] == {"CC0": 1}


@pytest.mark.parametrize(("answer_as", "column"), [("number from 1", "n"), ("number from 0", "zero"), ("text", "said")])
def test_answers_as_they_are_marked(tmp_path: Path, answer_as: str, column: str) -> None:
    rows = [{**row, "zero": row["n"] - 1, "said": row["abc"[row["n"] - 1]]} for row in ROWS]
    place = write(tmp_path / "mine.jsonl", rows)
    _, questions = bring(place, tmp_path / "out", **COLUMNS | {"answer": column}, answer_as=answer_as)
    assert plain(questions) == EXPECTED


def test_options_in_one_column(tmp_path: Path) -> None:
    rows = [{"question": "?", "options": options, "answer": "B"} for options in (["x", "y"], {"A": "x", "B": "y"})]
    _, questions = bring(write(tmp_path / "mine.json", rows), tmp_path / "out")
    assert plain(questions) == [("0", ("x", "y"), "B"), ("1", ("x", "y"), "B")]


def test_rows_that_give_no_question_are_kept_with_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = [{**ROWS[0], "right": "D"}, {**ROWS[0], "b": " "}, {**ROWS[0], "right": ""}, ROWS[0], {**ROWS[0], "Frage": ""}]
    made, questions = bring(write(tmp_path / "mine.csv", [ROWS[0], *odd]), tmp_path / "out", **COLUMNS)
    assert len(questions) == 1
    refused = [json.loads(line) for line in (made.path / "refused.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in refused] == ["no right option is marked", "option B is empty", "no right option is marked",
                                                  "another row has this id", "the stem is empty"]
    assert refused[0]["place"].endswith("mine.csv:3")
    assert "rows that give no question: 5" in caplog.text
    assert made.manifest["facts"]["refused"]["no right option is marked"] == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stem": "Farge"}, r"mine\.csv: has no column 'Farge'; did you mean 'Frage'\?; it has nr, Frage, .*--stem"),
    ({"options": ["a", "d"]}, "has no column 'd'.*--options"),
    ({"answer_as": "number from 0"}, "no test question; rows are refused, most of them because: a field does not hold"),
    ({"answer": "n"}, "no test question; rows are refused, most of them because: no right option is marked"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG)
def test_wrong_columns_are_said_in_one_line(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        bring(write(tmp_path / "mine.csv", ROWS), tmp_path / "out", **COLUMNS | columns)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
