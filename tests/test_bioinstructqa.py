"""BioInstructQA's released zip: ten tasks, English shots beside a translated test, and archives that are damaged."""

import json
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from biomistral.benchmarks.published import bioinstructqa, files
from biomistral.benchmarks.published.files import DataFile, data_files
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.errors import UserError
from biomistral.evaluation.translations import read_together
from biomistral.recipe import parse
from biomistral.records import read_questions
from biomistral.run import execute
from local_server import serving

SPLITS = ("train", "validation", "test")


def item(corpus: str, number: int | str, **changes: Any) -> dict[str, Any]:
    return {"corpus_name": corpus, "identifier": f"{corpus}_{number}", "task_type": "mcqa", "classes": ["A", "B"],
            "question": f"What is {number}?", "options": {"A": "fever", "B": "cough"}, "correct_answer_letter": "B",
            "context": "Background. Methods.", "few_shot_samples[1]": [], **changes}


def translated(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "question_translated": f"Qu'est-ce que « {row['question']} » ?",
            "options_translated": {"A": "fièvre", "B": "toux"}, "context_translated": "Contexte. Méthodes."}


def release(path: Path, languages: tuple[str, ...] = ("French", "Arabic"), **changes: list[dict[str, Any]]) -> Path:
    """A zip of the release's layout: two questions of each corpus in each split, the tests of which are translated."""
    rows = [item(corpus, number) for corpus in bioinstructqa.CORPORA for number in range(2)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in SPLITS:
            archive.writestr(f"base/overall_{split}+prompt.json", json.dumps(changes.get(split, rows)))
        for name in languages:
            archive.writestr(f"langs_processed/{name}-full.json", json.dumps([translated(row) for row in rows], indent=1))
        archive.writestr("__MACOSX/base/._overall_test+prompt.json", "junk")
    return path


def build(place: Path, out: Path, language: str = "en") -> dict[str, Any]:
    settings = {"suite": "bioinstructqa", "files": [str(place)], "language": language}
    return execute(parse(BenchmarkSettings, settings), out).manifest


def test_the_ten_tasks_in_english(tmp_path: Path) -> None:
    made = build(release(tmp_path / "data.zip"), tmp_path / "out")
    questions = read_questions(tmp_path / "out" / "questions.parquet")
    assert len(questions) == 10 * 2 * 3
    assert {question.task for question in questions} == set(bioinstructqa.TASKS)
    assert {question.language for question in questions} == {"en"}
    assert {question.task for question in questions if question.context} == {"pubmedqa"}  # the others are asked without
    first = next(question for question in questions if question.task == "medqa_5" and question.split == "test")
    assert (first.id, first.stem, first.options, first.answer) == (
        "medqa_5/test/MedQA-5_options_0", "What is 0?", ("fever", "cough"), "B")
    assert made["licences"] == {"Apache-2.0": 1}
    assert any("medmcqa: 2 train questions, 146257 were expected" in note for note in made["facts"]["sizes"])


def test_a_translated_test_beside_english_shots(tmp_path: Path) -> None:
    build(release(tmp_path / "data.zip"), tmp_path / "out", "fr")
    questions = read_questions(tmp_path / "out" / "questions.parquet")
    assert {(question.split, question.language) for question in questions} == {
        ("train", "en"), ("validation", "en"), ("test", "fr")}
    asked = next(question for question in questions if question.id == "pubmedqa/test/PubMedQA_0")
    assert (asked.stem, asked.options, asked.context) == (
        "Qu'est-ce que « What is 0? » ?", ("fièvre", "toux"), "Contexte. Méthodes.")
    build(tmp_path / "data.zip", tmp_path / "english")
    together = read_together(tmp_path / "english", [tmp_path / "out"], "test")
    assert together.about[0] | {"key": ""} == {"name": "out", "key": "", "languages": ["fr"], "questions": 20, "without_twin": 0,
                                              "translated_by": ["openai gpt-3.5-turbo"]}
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        archive.extractall(tmp_path / "folder")
    (tmp_path / "folder" / "__MACOSX" / "base" / "._overall_test+prompt.json").unlink()
    build(tmp_path / "folder", tmp_path / "again", "fr")
    assert read_questions(tmp_path / "again" / "questions.parquet") == questions


def test_a_language_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"language 'de': .* have a test in ar, en, fr; .*\(German-full\.json\)$"):
        build(release(tmp_path / "data.zip"), tmp_path / "out", "de")
    with pytest.raises(UserError, match=r"language 'en': .* have a test in none"):
        bioinstructqa.of_language([], "en")
    with pytest.raises(UserError, match="only those of bioinstructqa, mmmlu, global_mmlu and xmedbench are"):
        parse(BenchmarkSettings, {"suite": "mmlu_medical", "files": ["x"], "language": "fr"}, "recipe")


ODD: list[tuple[dict[str, Any], str]] = [
    ({"corpus_name": "USMLE"}, "corpus_name is 'USMLE', which is none of the ten tasks"),
    ({"options": {"A": "a", "C": "c"}}, "its options are lettered ['A', 'C']"),
    ({"correct_answer_letter": "E"}, "no right option is marked"),
    ({"options": None}, "a field does not hold what its layout says"),
    ({"identifier": "MedQA_0"}, "another file of this suite has a question of this task, split and number"),
]


@pytest.mark.parametrize(("change", "reason"), ODD)
def test_rows_that_give_no_question_have_a_line_with_their_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    build(release(tmp_path / "data.zip", test=[item("MedQA", 0), item("MedQA", 1) | change]), tmp_path / "out")
    (line,) = (tmp_path / "out" / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"].startswith(reason)


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)


def _encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(len(data) - 4):
        if data[start:start + 4] in (b"PK\x03\x04", b"PK\x01\x02"):
            data[start + (6 if data[start + 2] == 3 else 8)] |= 1
    path.write_bytes(data)


def _not_json(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("base/overall_test+prompt.json", json.dumps([item("MedQA", 0)])[:-20])


@pytest.mark.parametrize(("spoil", "message"), [
    (_short, "not a readable zip archive"), (_flipped, r"cannot be unpacked|cannot be read as JSON"),
    (_encrypted, "cannot be unpacked .*encrypted"), (_not_json, r"test\+prompt\.json: cannot be read as JSON in UTF-8"),
    (lambda path: path.write_bytes(b""), "not a readable zip archive")])
def test_a_damaged_archive_is_refused_in_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(release(tmp_path / "data.zip"))
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path / "data.zip", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_lists_are_read_in_pieces_of_any_size(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READ_CHARACTERS", size)
    rows = [{"a": 1.5, "b": ["]", "[", ","]}, {"é": "\u4e00\\\""}, {}]
    for text in (json.dumps(rows), json.dumps(rows, indent=2), " \n" * size + json.dumps(rows) + "\n", "[]"):
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        assert [row for _, row in DataFile(tmp_path / "x.json").rows()] == json.loads(text)
    for text in ("[{}", '[{"a": 1} {}]', "[{}] x", "[{},", "[nul"):
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="cannot be read as JSON"):
            list(DataFile(tmp_path / "x.json").rows())


def test_an_archive_without_data_is_no_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("read.me", "x")
    with pytest.raises(UserError, match=r"no \.json, \.jsonl, \.csv, \.parquet file there"):
        data_files([tmp_path / "x.zip"])


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download takes: what a data set holds, and its files."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        known = "/api/datasets/BioMistral/BioInstructQA"
        if self.path.startswith(f"{known}/revision/"):
            data = json.dumps({"id": "BioMistral/BioInstructQA", "sha": "0" * 40, "siblings": []}).encode()
        elif self.path.startswith(f"{known}/tree/"):
            data = json.dumps([{"type": "file", "path": name, "size": len(held), "oid": "1"}
                               for name, held in self.files.items()]).encode()
        else:
            data = self.files.get(self.path.rpartition("/")[2], b"")
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_the_hub_by_name_and_its_absence_in_one_line(tmp_path: Path) -> None:
    Hub.files = {"data.zip": release(tmp_path / "data.zip").read_bytes(), "code.py": b"raise SystemExit(3)"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)

    def command(out: str, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        words = ["benchmark", "build", "bioinstructqa", "--files", name, "--language", "ar", "--out", str(tmp_path / out)]
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
        return subprocess.run([sys.executable, "-m", "biomistral.cli", *words], capture_output=True, text=True, check=False,
                              env={**os.environ, **place, **variables})

    with serving(server):
        done = command("out", "hub:datasets/BioMistral/BioInstructQA")
        assert done.returncode == 0, done.stderr
        wrong = command("wrong", "hub:datasets/BioMistral/BioInstructQA/nothing")
    assert not list((tmp_path / "cache").rglob("code.py"))
    assert {question.language for question in read_questions(tmp_path / "out" / "questions.parquet")} == {"en", "ar"}
    assert wrong.returncode == 2
    assert "BioInstructQA/nothing: the hub has no *.parquet, " in wrong.stderr
    again = command("again", "hub:datasets/BioMistral/BioInstructQA", HF_HUB_OFFLINE="1")  # from the cache
    assert again.returncode == 0, again.stderr
    lost = command("lost", "hub:datasets/cais/mmlu/anatomy", HF_HUB_OFFLINE="1")
    assert lost.returncode == 2
    assert lost.stderr.splitlines() == [
        "biomistral: hub:datasets/cais/mmlu/anatomy: not in the local cache and HF_HUB_OFFLINE is set; on a machine with a "
        "network run 'hf download cais/mmlu --repo-type dataset' and copy the folder here, then give its path"]
