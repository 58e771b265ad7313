"""The published benchmarks: every layout gives the same questions, the splits are the paper's, what is odd is kept and said."""

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.benchmarks.published import medmcqa, mmlu, suite
from biomistral.benchmarks.published.draft import Refusal
from biomistral.benchmarks.published.files import DataFile
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.cli import app
from biomistral.errors import UserError
from biomistral.recipe import parse
from biomistral.records import LETTERS, Question, read_questions
from biomistral.run import execute

STEMS = ["Which vitamin is lacking in scurvy?", "Où se trouve l'« os hyoïde » ?\nChoose.", "\u4e00\u7a2e\u75c5, 10 \u00b5g?  "]
OPTIONS = [["Vitamin A", "Vitamin C", "Vitamin D", "Vitamin K"], ["neck, front", "thorax", "skull", "hand \"left\""],
           ["5", "\u5341", "15", "20"]]
RIGHT = [1, 0, 2]
ITEMS = list(zip(STEMS, OPTIONS, RIGHT, strict=True))


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def mmlu_csv(items: list[tuple[str, list[str], int]] = ITEMS) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([[stem, *options, LETTERS[right]] for stem, options, right in items])
    return out.getvalue()


def medmcqa_rows(first: int, items: list[tuple[str, list[str], int]] = ITEMS) -> list[dict[str, Any]]:
    """With a fourth row, so that the file shows from where it counts."""
    whole = [*items, ("A fourth?", ["a", "b", "c", "d"], 3 if first else 0)]
    return [{"id": f"q{number}", "question": stem, **dict(zip(("opa", "opb", "opc", "opd"), options, strict=True)),
             "cop": right + first, "choice_type": "multi" if number else "single", "subject_name": "Anatomy", "exp": None}
            for number, (stem, options, right) in enumerate(whole)]


def pubmed(first: int, count: int) -> dict[str, dict[str, Any]]:
    return {str(number): {"QUESTION": f"Does {number} work?", "CONTEXTS": ["Background.", "Methods: n = 3."],
                          "LABELS": ["A", "B"], "final_decision": ("yes", "no", "maybe")[number % 3], "LONG_ANSWER": "It does."}
            for number in range(first, first + count)}


def ten_tasks(root: Path) -> Path:
    """A folder with something of every one of the ten tasks, as released."""
    for name in (*mmlu.SUBJECTS, "astronomy"):
        for split in ("dev", "val", "test"):
            write(root / "mmlu" / split / f"{name}_{split}.csv", mmlu_csv())
    for count in (4, 5):
        write(root / "medqa" / f"{count}_options_test.jsonl", lines([
            {"question": stem, "options": dict(zip(LETTERS, [*options, "none"][:count], strict=False)),
             "answer_idx": LETTERS[right], "answer": options[right], "meta_info": "step1"} for stem, options, right in ITEMS]))
    write(root / "medmcqa" / "dev.json", lines(medmcqa_rows(1)))
    write(root / "pubmedqa" / "ori_pqal.json", json.dumps(pubmed(0, 6), indent=1))
    write(root / "pubmedqa" / "test_ground_truth.json", json.dumps({"1": "no", "5": "maybe"}))
    write(root / "medqa" / "LICENSE", "MIT")
    return root


def gathered(name: str, *places: Path) -> tuple[list[Question], list[Refusal]]:
    items = list(suite.read(suite.gather(name, list(places)), root=0))
    return [item for item in items if isinstance(item, Question)], [item for item in items if isinstance(item, Refusal)]


def plain(questions: list[Question]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(question.stem, question.options, question.answer) for question in questions]


EXPECTED = [(stem.strip(), tuple(options), LETTERS[right]) for stem, options, right in ITEMS]


# ---- the whole suite ------------------------------------------------------------------------------------------------


def test_the_ten_tasks_from_their_released_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = execute(BenchmarkSettings(suite="biomistral", files=[str(ten_tasks(tmp_path / "in"))]), tmp_path / "out")
    questions = read_questions(made.path / "questions.parquet")
    assert Counter((question.task, question.split) for question in questions) == {
        **{(task, split): 3 for task in mmlu.TASKS for split in ("dev", "validation", "test")},
        ("medqa_4", "test"): 3, ("medqa_5", "test"): 3, ("medmcqa", "test"): 4, ("pubmedqa", "test"): 2,
        ("pubmedqa", "validation"): 4}
    for task in ("mmlu_anatomy", "medqa_4", "medmcqa"):
        assert plain([one for one in questions if (one.task, one.split) == (task, "test")])[:3] == EXPECTED
    five = [question for question in questions if question.task == "medqa_5"]
    assert [question.options[4] for question in five] == ["none"] * 3
    (one,) = [question for question in questions if question.id == "pubmedqa/5"]
    assert (one.context, one.options, one.answer) == ("Background. Methods: n = 3.", ("yes", "no", "maybe"), "C")
    about = json.loads((made.path / "benchmark.json").read_text())
    assert about["tasks"]["medqa_4"] == {"dev": 0, "validation": 0, "test": 3, "licence": "MIT", "source": "arXiv 2009.13081"}
    assert "mmlu_anatomy: 3 test questions, 135 were expected" in caplog.text
    assert "medqa_4, medqa_5, medmcqa: no dev, train or validation questions in these files" in caplog.text
    order = dict.fromkeys(question.task for question in questions)
    assert list(order) == [*mmlu.TASKS, "medqa_4", "medqa_5", "pubmedqa", "medmcqa"]
    assert len(made.manifest["facts"]["sizes"]) == 23
    again = execute(BenchmarkSettings(suite="biomistral", files=[str(tmp_path / "in")]), tmp_path / "again")
    assert again.manifest["content"] == made.manifest["content"]


def test_known_sizes_are_the_papers() -> None:
    sizes = suite.SIZES
    assert sum(sizes[task]["test"] for task in mmlu.TASKS) == 1089
    assert sizes["medmcqa"]["train"] + sizes["medmcqa"]["validation"] == 182822
    note = suite.odd_sizes("mmlu_medical", Counter({("mmlu_professional_medicine", "test"): 282}))
    assert note == ["mmlu_professional_medicine: 282 test questions, 272 were expected: some copies carry ten more rows than the "
                    "release of 272"]


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_mmlu_on_the_hub(tmp_path: Path) -> None:
    rows = [{"question": stem, "subject": "anatomy", "choices": options, "answer": right} for stem, options, right in ITEMS]
    parquet(tmp_path / "all" / "test-00000-of-00001.parquet", [*rows, {**rows[0], "subject": "astronomy"}])
    questions, refused = gathered("mmlu_medical", tmp_path)
    assert (plain(questions), refused) == (EXPECTED, [])
    assert [question.id for question in questions] == [f"mmlu_anatomy/test/{number}" for number in range(3)]


MEDQA: dict[str, list[dict[str, Any]]] = {
    "test.jsonl": [{"question": stem, "options": dict(zip("ABCD", options, strict=True)), "answer_idx": LETTERS[right],
                    "answer": options[right]} for stem, options, right in ITEMS],
    "medqa-test.parquet": [{"question": stem, "options": [{"key": key, "value": text} for key, text in
                                                          zip("ABCD", options, strict=True)],
                            "answer_idx": LETTERS[right], "answer": options[right], "meta_info": "step2&3"}
                           for stem, options, right in ITEMS],
    "test-00000-of-00001.parquet": [{"id": "x", "sent1": stem, "sent2": "", **{f"ending{place}": text for place, text in
                                                                              enumerate(options)}, "label": right}
                                    for stem, options, right in ITEMS],
}


@pytest.mark.parametrize("name", MEDQA)
def test_medqa_layouts(tmp_path: Path, name: str) -> None:
    if name.endswith("jsonl"):
        write(tmp_path / name, lines(MEDQA[name]))
    else:
        parquet(tmp_path / name, MEDQA[name])
    source = suite.SOURCES["medqa"]
    file = DataFile(tmp_path / name)
    assert source.recognises(file)
    assert not any(other.recognises(file) for other in suite.SOURCES.values() if other is not source)
    assert plain([item for item in source.read([file], 0) if isinstance(item, Question)]) == EXPECTED


@pytest.mark.parametrize("first", [0, 1])
def test_medmcqa_counts_from_where_the_file_says(tmp_path: Path, first: int) -> None:
    path = tmp_path / "validation-00000-of-00001.parquet"
    parquet(path, medmcqa_rows(first))
    items = list(medmcqa.read([DataFile(path)], 0))
    assert plain([item for item in items if isinstance(item, Question)])[:3] == EXPECTED


def test_medmcqa_does_not_guess_where_counting_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", lines(medmcqa_rows(1)[:2]))
    with pytest.raises(UserError, match=r"dev\.json: 'cop' is neither 0 nor 4 in its rows"):
        list(medmcqa.read([DataFile(path)], 0))
    both = [{**row, "cop": cop} for row, cop in zip(medmcqa_rows(1), (0, 4, 1, 2), strict=True)]
    write(path, lines(both))
    with pytest.raises(UserError, match="both 0 and 4"):
        list(medmcqa.read([DataFile(path)], 0))


def test_medmcqas_train_file_is_split_by_the_seed(tmp_path: Path) -> None:
    rows = [{**medmcqa_rows(1)[number % 4], "id": f"t{number}"} for number in range(103)]
    path = write(tmp_path / "train.json", lines(rows))
    drawn = [[item.split for item in medmcqa.read([DataFile(path)], root) if isinstance(item, Question)] for root in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert Counter(drawn[0]) == Counter(drawn[2]) == {"train": 82, "validation": 21}
    assert int(0.8 * 182822) == 146257


def test_medmcqas_test_file_has_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "test.json", lines([{**row, "cop": -1} for row in medmcqa_rows(1)]))
    items = list(medmcqa.read([DataFile(path)], 0))
    assert [item.reason for item in items if isinstance(item, Refusal)] == ["MedMCQA's official test set has no answers"] * 4


def test_pubmedqa_on_the_hub_and_its_artificial_set(tmp_path: Path) -> None:
    def hub(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"pubid": int(key), "question": row["QUESTION"], "context": {"contexts": row["CONTEXTS"], "labels": row["LABELS"],
                                                                           "meshes": []},
                 "long_answer": "", "final_decision": row["final_decision"]} for key, row in records.items()]

    parquet(tmp_path / "pqa_labeled" / "train-00000-of-00001.parquet", hub(pubmed(0, 6)))
    parquet(tmp_path / "pqa_artificial" / "train-00000-of-00001.parquet", hub(pubmed(100, 9)))
    write(tmp_path / "ids.json", json.dumps({"1": "no", "4": "yes", "5": "maybe"}))
    items = list(suite.SOURCES["pubmedqa"].read([DataFile(path) for path in sorted(tmp_path.rglob("*.*")) if path.is_file()], 0))
    questions = [item for item in items if isinstance(item, Question)]
    assert Counter(question.split for question in questions) == {"train": 9, "validation": 3, "test": 2}
    (refused,) = [item for item in items if isinstance(item, Refusal)]
    assert refused.reason == "its answer is 'no', the official one 'yes'"
    (tmp_path / "ids.json").unlink()
    with pytest.raises(UserError, match=r"come without a split; give its test_ground_truth\.json too"):
        list(suite.SOURCES["pubmedqa"].read([DataFile(tmp_path / "pqa_labeled" / "train-00000-of-00001.parquet")], 0))


def truthful(root: Path) -> Path:
    targets = {f"Right {number}": 1 for number in range(1)} | {f"Wrong {number}": 0 for number in range(11)}
    items = [{"question": f"Is it true, {number}?", "mc0_targets": {}, "mc2_targets": {},
              "mc1_targets": {**targets, **({"": 0} if number == 1 else {})}} for number in range(6)]
    write(root / "mc_task.json", json.dumps(items))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["Type", "Category", "Question", "Best Answer"])
    writer.writerows([["Adversarial", category, f"Is it true, {number}?", "x"] for number, category in
                      enumerate(["Health", "Science", "Law", "Nutrition", "Psychology"])])
    write(root / "TruthfulQA.csv", out.getvalue())
    return root


def test_truthfulqa_is_shuffled_and_only_about_health_and_science(tmp_path: Path) -> None:
    questions, refused = gathered("truthfulqa", truthful(tmp_path))
    assert [(question.meta["category"], question.id) for question in questions] == [
        ("Health", "truthfulqa/0"), ("Science", "truthfulqa/1"), ("Nutrition", "truthfulqa/3"), ("Psychology", "truthfulqa/4")]
    assert all(question.options[question.answer_index] == "Right 0" for question in questions)
    assert all(len(question.options) == 12 for question in questions)  # the empty wrong choice is none
    assert len({question.answer for question in questions}) > 1
    assert [item.reason for item in refused] == ["the table of categories does not have this question"]
    hub = [{"question": f"Is it true, {number}?", "mc1_targets": {"choices": ["Right 0", "Wrong 0"], "labels": [1, 0]}}
           for number in range(5)]
    parquet(tmp_path / "mc_task.parquet", hub)
    (tmp_path / "mc_task.json").unlink()
    assert [len(question.options) for question in gathered("truthfulqa", tmp_path)[0]] == [2, 2, 2, 2]
    (tmp_path / "TruthfulQA.csv").unlink()
    with pytest.raises(UserError, match="does not say what its questions are about"):
        gathered("truthfulqa", tmp_path)


# ---- what is odd ----------------------------------------------------------------------------------------------------

ODD: list[tuple[dict[str, Any], str]] = [
    ({"answer": None, "options": {"A": "a", "B": " ", "C": "c", "D": "d"}}, "option B is empty"),
    ({"answer": None, "options": {"A": "a", "B": "b"}}, "2 options; MedQA has 4 or 5"),
    ({"options": {"B": "a", "C": "b", "D": "c", "E": "d"}}, r"its options are lettered \['B', 'C', 'D', 'E'\]"),
    ({"answer_idx": "F"}, "no right option is marked"),
    ({"answer": "Vitamin A"}, "its answer is 'Vitamin A', but option B is 'Vitamin C'"),
    ({"question": "\n"}, "the stem is empty"),
    ({"options": "ABCD"}, "a field does not hold what its layout says"),
]


@pytest.mark.parametrize(("change", "reason"), ODD)
def test_rows_that_give_no_question_are_kept_with_their_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    rows = [dict(row) for row in MEDQA["test.jsonl"]]
    rows[1] = rows[0] | change
    write(tmp_path / "medqa" / "test.jsonl", lines(rows))
    items = list(suite.SOURCES["medqa"].read([DataFile(tmp_path / "medqa" / "test.jsonl")], 0))
    assert isinstance(items[1], Refusal)
    assert items[1].place.endswith("test.jsonl:2")
    assert re.match(reason, items[1].reason), items[1].reason
    assert [question.id for question in items if isinstance(question, Question)] == ["medqa_4/test/0", "medqa_4/test/2"]


def test_refusals_are_written_and_what_belongs_to_no_benchmark_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = ten_tasks(tmp_path / "in")
    empty = {"question": "?", "options": {}, "answer_idx": ""}
    write(place / "medqa" / "4_options_test.jsonl", lines([MEDQA["test.jsonl"][0], empty]))
    write(place / "notes.json", '[{"a": 1}]')
    made = execute(BenchmarkSettings(suite="biomistral", files=[str(place)]), tmp_path / "out")
    (row,) = [json.loads(line) for line in (made.path / "refused.jsonl").read_text().splitlines()]
    assert row["reason"] == "0 options; MedQA has 4 or 5"
    assert f"left out, no files of suite 'biomistral': {place / 'notes.json'}" in caplog.text
    assert made.manifest["facts"]["files_left_out"] == ["notes.json"]


def test_two_files_of_one_split_do_not_make_one_question_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "anatomy_test.csv", mmlu_csv())
    questions, refused = gathered("mmlu_medical", tmp_path)
    assert (len(questions), len(refused)) == (3, 3)
    assert refused[0].reason == "another file of this suite has a question of this task, split and number"


BROKEN: list[tuple[str, str, str]] = [
    ("anatomy_test.csv", "", "no file of mmlu"),
    ("x.json", "[1]", r"x\.json:1: an object was expected, found int"),
    ("x.jsonl", '{"question": "?", "subject": "anatomy", "choices": ["a", "b"], "answer": 0}\n[2]\n',
     r"x\.jsonl:2: one JSON object a line was expected"),
    ("x.json", '{"a": ', r"x\.json: cannot be read as JSON in UTF-8"),
    ("x.parquet", "PAR1", r"x\.parquet: not a readable Parquet file"),
    ("x.csv", "question,a\nx\n", r"x\.csv:2: 1 fields, the header has 2"),
    ("readme.txt", "x", r"no \.json, \.jsonl, \.csv, \.parquet file there"),
]


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    write(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as caught:
        gathered("mmlu_medical", tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_say_what_a_suite_is_built_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="suite biomistral is built from published files: name them"):
        parse(BenchmarkSettings, {"suite": "biomistral"}, "recipe")
    with pytest.raises(UserError, match="suite medconceptsqa is built from code lists"):
        parse(BenchmarkSettings, {"files": ["x"]}, "recipe")


def test_what_can_be_built_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    app(["benchmark", "list", "--json"], standalone_mode=False)
    translated = {"bioinstructqa", "mmmlu", "global_mmlu", "xmedbench"}
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out) if not translated & {*row["suites"]}}
    assert rows["medmcqa"] == {"suites": ["biomistral"], "task": "medmcqa", "licence": "MIT", "paper": "arXiv 2203.14371",
                               "hub": "hub:datasets/openlifescienceai/medmcqa",
                               "sizes": {"train": 146257, "validation": 36565, "test": 4183}}
    assert rows["mmlu_anatomy"]["suites"] == ["biomistral", "mmlu_medical"]
    app(["benchmark", "list"], standalone_mode=False)
    assert "biomistral benchmark build truthfulqa --files FILES --out DIR" in capsys.readouterr().out
