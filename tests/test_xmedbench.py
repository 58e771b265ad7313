"""XMedBench as published: options in one text, in any script; what cannot be told apart is refused with its file and row."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.benchmarks.published.lettered import place_of, split_options
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.errors import UserError
from biomistral.recipe import parse
from biomistral.records import Question, read_questions
from biomistral.run import execute

FOUR = ["one", "two", "three", "four"]


@pytest.mark.parametrize("text", [
    "(A) one\n(B) two\n(C) three\n(D) four", "A. one\nB. two\nC. three\nD. four",
    "A) one\r\nB) two\r\nC) three\r\nD) four\r\n",
    "(A) one (B) two (C) three (D) four", "A. one B. two C. three D. four", "A) one; B) two; C) three; D) four",
    "Ａ．one\nＢ．two\nＣ．three\nＤ．four", "（A）one\n（B）two\n（C）three\n（D）four",
    "（Ａ） one （Ｂ） two （Ｃ） three （Ｄ） four",
    "A、one\nB、two\nC、three\nD、four", "A：one\nB：two\nC：three\nD：four", "[A] one\n[B] two\n[C] three\n[D] four",
    "A one\nB two\nC three\nD four", "(أ) one\n(ب) two\n(ج) three\n(د) four", "أ. one\nب. two\nج. three\nد. four",
    "(ا) one\n(ب) two\n(ج) three\n(د) four", "(अ) one\n(ब) two\n(स) three\n(द) four", "А) one\nБ) two\nВ) three\nГ) four",
    "  (A)  one \n\n (B) two\n (C)three\n (D) four",
])
def test_options_in_one_text(text: str) -> None:
    found = split_options(text)
    assert found is not None
    assert found.options == FOUR
    assert place_of("(C)", found.letters) == place_of("C.", found.letters) == place_of(found.letters[2], found.letters) == 2


@pytest.mark.parametrize(("text", "options"), [
    ("(A) Vitamin (C) is low\n(B) factor (B) is high\n(C) neither", ["Vitamin (C) is low", "factor (B) is high", "neither"]),
    ("(A) first line\nsecond line\n(B) other", ["first line\nsecond line", "other"]),
    ("(A) 0.192\n(B) 1.92\n(C) 1920", ["0.192", "1.92", "1920"]), ("(A) Yes.\n(B) No.\n(C) Maybe.", ["Yes.", "No.", "Maybe."]),
    ("(A) A. baumannii\n(B) B. fragilis\n(C) C. difficile", ["A. baumannii", "B. fragilis", "C. difficile"]),
    ("(A) انخفاض ADP.\n(B) فشل ATP.", ["انخفاض ADP.", "فشل ATP."]), ("(A) Ⅱ型.\n(B) 24h.", ["Ⅱ型.", "24h."]),
])
def test_letters_and_lines_inside_options(text: str, options: list[str]) -> None:
    found = split_options(text)
    assert found is not None
    assert found.options == options


@pytest.mark.parametrize("text", [
    "", "one, two, three", "(A) one", "(B) two\n(C) three", "(A) one\n(C) three", "(A) one\n(B) two\n(B) three", "(A) one\n(B)  ",
    "choose: (A) one\n(B) two", "(A) low\n(B) complement (C) deficiency", "(A) one (B) vitamin (A) two", "1. one\n2. two",
])
def test_what_cannot_be_told_apart(text: str) -> None:
    assert split_options(text) is None


def test_an_answer_is_one_letter_of_the_options_alphabet_or_latin() -> None:
    assert [place_of(one, "АБВГДЕЖЗИК") for one in ("В", "(Б)", "C", "AB", "", "5", "ج")] == [2, 1, 2, -1, -1, -1, -1]


TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1).filter(lambda text: text.strip(";；，،,") == text)


@given(st.lists(TEXT, min_size=3, max_size=8))
def test_lines_with_letters_in_brackets_are_always_told_apart(options: list[str]) -> None:
    found = split_options("\n".join(f"({letter}) {option}" for letter, option in zip("ABCDEFGH", options, strict=False)))
    assert found is not None
    assert found.options == options


def row(question: str, **changes: Any) -> dict[str, Any]:
    return {"question": question, "option": "(A) 一.\n(B) 二.\n(C) 三.", "anwer": "(B)", "source": "medqa-mcmle", **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in rows), encoding="utf-8")
    return path


def build(place: Path, out: Path, language: str) -> list[Question]:
    execute(parse(BenchmarkSettings, {"suite": "xmedbench", "files": [str(place)], "language": language}), out)
    return list(read_questions(out / "questions.parquet"))


def test_both_spellings_and_a_context(tmp_path: Path) -> None:
    later = {"question": "سؤال", "options": "(A) 1\n(B) 2", "answer": "(A)", "source": "mmlu-medical-ar"}
    write(tmp_path / "files" / "ar.json", [later]).write_text(json.dumps([later]), encoding="utf-8")
    write(tmp_path / "files" / "zh" / "medqa-mcmle.jsonl", [row("问?"), row("又?", anwer="C")])
    write(tmp_path / "files" / "en" / "pubmedqa.jsonl", [row("Is it?", option="(A) Yes.\n(B) No.\n(C) Maybe.", anwer="(C)",
                                                             source="pubmedqa", context="It may.")])
    write(tmp_path / "files" / "dev" / "zh.jsonl", [row("问?")])
    chinese = build(tmp_path / "files", tmp_path / "zh", "zh")
    assert [(one.id, one.language, one.split, one.stem, one.options, one.answer) for one in chinese] == [
        ("xmedbench_medqa_mcmle/test/0", "zh", "test", "问?", ("一.", "二.", "三."), "B"),
        ("xmedbench_medqa_mcmle/test/1", "zh", "test", "又?", ("一.", "二.", "三."), "C")]
    arabic, = build(tmp_path / "files", tmp_path / "ar", "ar")
    assert (arabic.task, arabic.options, arabic.answer) == ("xmedbench_mmlu_medical_ar", ("1", "2"), "A")
    english, = build(tmp_path / "files", tmp_path / "en", "en")
    assert (english.options, english.answer, english.context) == (("Yes.", "No.", "Maybe."), "C", "It may.")
    with pytest.raises(UserError, match="language 'fr': these tests are in ar, en, zh; name one of those"):
        build(tmp_path / "files", tmp_path / "fr", "fr")


def test_rows_that_give_no_question_are_kept_with_file_and_row(tmp_path: Path) -> None:
    place = write(tmp_path / "zh.jsonl", [
        row("sound"), row("unsplit", option="一, 二, 三"), row("no answer", anwer="(D)"), row("many", anwer="(A)(B)"), row("  "),
        row("unknown", source="elsewhere"), {"question": "bare", "source": "cmexam"}])
    assert [one.stem for one in build(place, tmp_path / "out", "zh")] == ["sound"]
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert refused[0] == {"place": f"{place}:2", "reason": "its options cannot be told apart: '一, 二, 三'"}
    assert [one["reason"] for one in refused[1:]] == [
        "no right option is marked", "no right option is marked", "the stem is empty",
        "source is 'elsewhere', which is none of XMedBench's", "its options cannot be told apart: ''"]
