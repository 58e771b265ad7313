"""MMMLU and Global-MMLU as published: the medical subjects in one language, under the ids of the English questions."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.errors import UserError
from biomistral.evaluation.translations import read_together
from biomistral.recipe import parse
from biomistral.records import read_questions
from biomistral.run import execute

ROWS = [("abstract_algebra", "B"), ("anatomy", "A"), ("anatomy", "D"), ("college_medicine", "C")]


def mmmlu(path: Path, word: str = "سؤال", **changes: Any) -> Path:
    """A file as OpenAI has it: a column without a name, all subjects in one file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "Question", "A", "B", "C", "D", "Answer", "Subject"])
        for number, (subject, letter) in enumerate(ROWS):
            writer.writerow([number, f"{word} {number}?", "1", "2", "3", "4", changes.get("answer", letter), subject])
    return path


def english(folder: Path) -> Path:
    """MMLU's own csv files, with shots."""
    folder.mkdir()
    for subject in ("anatomy", "college_medicine"):
        letters = [letter for name, letter in ROWS if name == subject]
        for split, answers in (("dev", ["A", "B", "C"]), ("test", letters)):
            with (folder / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([f"{split} question?", "1", "2", "3", "4", letter] for letter in answers)
    return folder


def build(suite: str, place: Path, out: Path, language: str = "en") -> Path:
    execute(parse(BenchmarkSettings, {"suite": suite, "files": [str(place)], "language": language}), out)
    return out


def test_mmmlu_is_the_twin_of_mmlu(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    mmmlu(folder / "mmlu_AR-XY.csv")
    mmmlu(folder / "mmlu_PT-BR.csv", "pergunta")
    made = build("mmmlu", folder, tmp_path / "ar", "ar")
    questions = read_questions(made / "questions.parquet")
    assert [(one.id, one.language, one.split, one.stem, one.answer) for one in questions] == [
        ("mmlu_anatomy/test/0", "ar", "test", "سؤال 1?", "A"), ("mmlu_anatomy/test/1", "ar", "test", "سؤال 2?", "D"),
        ("mmlu_college_medicine/test/0", "ar", "test", "سؤال 3?", "C")]
    together = read_together(build("mmlu_medical", english(tmp_path / "mmlu"), tmp_path / "en"), [made], "test")
    assert together.about[0] | {"key": ""} == {"name": "ar", "key": "", "languages": ["ar"], "questions": 3, "without_twin": 0,
                                              "translated_by": ["MMMLU"]}
    with pytest.raises(UserError, match="language 'en': these files are in ar, pt; name one of those with --language"):
        build("mmmlu", folder, tmp_path / "none")


def test_rows_in_another_order_than_mmlu_has_do_not_pass_unseen(tmp_path: Path) -> None:
    mmmlu(tmp_path / "mmlu_DE-DE.csv", answer="D")
    made = build("mmmlu", tmp_path / "mmlu_DE-DE.csv", tmp_path / "de", "de")
    with pytest.raises(UserError, match="'mmlu_anatomy/test/0': in 'de' it has 4 options and answer D, in English 4 and A"):
        read_together(build("mmlu_medical", english(tmp_path / "mmlu"), tmp_path / "en"), [made], "test")


def sample(name: str, **changes: Any) -> dict[str, Any]:
    return {"sample_id": name, "subject": name.partition("/")[0], "subject_category": "Medical", "question": f"Pregunta {name}",
            "option_a": "uno", "option_b": "dos", "option_c": "tres", "option_d": "cuatro", "answer": "B", **changes}


def test_global_mmlu_has_ids_of_its_own_that_are_ours(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for split, rows in (("dev", [sample("anatomy/dev/0")]), ("test", [
            sample("anatomy/test/7"), sample("philosophy/test/0"), sample("anatomy/test/8", option_c="  "),
            sample("anatomy/test/9", answer=""), sample("anatomy")])):
        (folder / "es").mkdir(parents=True, exist_ok=True)
        (folder / "es" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = build("global_mmlu", folder, tmp_path / "out", "es")
    assert [(one.id, one.split, one.language) for one in read_questions(made / "questions.parquet")] == [
        ("mmlu_anatomy/dev/0", "dev", "es"), ("mmlu_anatomy/test/7", "test", "es")]
    reasons = [json.loads(line)["reason"] for line in (made / "refused.jsonl").read_text().splitlines()]
    assert reasons[:2] == ["option C is empty", "no right option is marked"]
    assert reasons[2].startswith("a field does not hold what its layout says")


def test_a_file_that_says_no_language(tmp_path: Path) -> None:
    (tmp_path / "languages").mkdir()
    with pytest.raises(UserError, match="neither its name nor its folder's says a language"):
        build("mmmlu", mmmlu(tmp_path / "languages" / "test.csv"), tmp_path / "out", "fr")
