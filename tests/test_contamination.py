"""Questions that stand in a corpus, found in what it kept and in what it took out, and the scores without them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lxml import html as lxml_html

from biomistral.cli import main
from biomistral.contamination import contamination
from biomistral.corpus.settings import CorpusSettings
from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.recipe import Machine, parse
from biomistral.records import Question, read_rows, write_questions
from biomistral.reporting.overlap import PARTS
from biomistral.reporting.settings import ReportSettings
from biomistral.run import execute
from biomistral.scoring.tally import score
from test_corpus import prose
from tiny import make_model

TEXTS = {name: f"Une question {name} about {prose(seed, 16)[:-1]}?" for seed, name in enumerate(("first", "second", "third"), 90)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contamination")
    make_model(folder / "pico", vocab_size=500)
    asked = [Question(id=name, task="t", stem=text, options=("fever", "cough"), answer="A") for name, text in TEXTS.items()]
    asked.append(Question(id="short", task="t", stem="What?", options=("fever", "cough"), answer="B"))
    write_questions(folder / "questions.parquet", asked)
    lines = [{"id": f"d{seed}", "text": prose(seed), "licence": "CC0"} for seed in range(3)]
    lines += [{"id": "holds", "text": f"{prose(7)}\n\n{TEXTS['second'].upper()} {prose(8)}", "licence": "CC0"},
              {"id": "too", "text": f"{prose(9)} {TEXTS['second']}", "licence": "CC0"}]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for name, against in (("dirty", []), ("clean", [str(folder / "questions.parquet")])):
        settings: dict[str, Any] = {"sources": [str(folder / "texts.jsonl")], "tokenizer": str(folder / "pico"),
                                    "sequence_length": 64, "min_words": 20, "language_from": "declared", "decontaminate": against}
        execute(parse(CorpusSettings, settings), folder / name, Machine(workers=1))
    evaluation = {"model": str(folder / "pico"), "benchmark": str(folder / "questions.parquet"), "dtype": "float32",
                  "protocols": ["letters-0shot", "cloze-sum"], "permutations": 2}
    execute(parse(EvaluateSettings, evaluation), folder / "results")
    return folder


def test_scores_with_and_without_what_stands_in_the_corpus(place: Path) -> None:
    found = contamination(place / "results", place / "dirty")
    assert found["standing"] == {"second": ["holds", "too"]}
    assert found["removed"] == {}
    assert (found["questions"], found["too_short"]) == (4, 1)
    rows = [row for row in read_rows(place / "results" / "answers.parquet") if row["protocol"] == "letters-0shot"]
    assert found["protocols"]["letters-0shot"] == {
        "all": score(rows), "without those in the corpus": score([row for row in rows if row["question"] != "second"]),
        "those in the corpus": score([row for row in rows if row["question"] == "second"])}
    assert found["protocols"]["cloze-sum"]["without those in the corpus"]["n"] == 3


def test_a_question_that_stands_there_in_one_language_counts_in_all(place: Path, tmp_path: Path) -> None:
    """English and French swapped: what the corpus holds is the translation of what was asked first."""
    english = [Question(id=name, task="t", stem=f"A question {name}?", options=("fever", "cough"), answer="A") for name in TEXTS]
    write_questions(tmp_path / "en.parquet", english)
    french = [one.model_copy(update={"language": "fr", "stem": TEXTS[one.id]}) for one in english]
    write_questions(tmp_path / "fr.parquet", french)
    settings = {"model": str(place / "pico"), "benchmark": str(tmp_path / "en.parquet"), "protocols": ["cloze-sum"],
                "translations": [str(tmp_path / "fr.parquet")]}
    execute(parse(EvaluateSettings, settings), tmp_path / "results")
    found = contamination(tmp_path / "results", place / "dirty")
    assert found["standing"] == {"second": ["holds", "too"]}
    assert {name: one["n"] for name, one in found["protocols"]["cloze-sum"].items()} == {
        "all": 6, "without those in the corpus": 4, "those in the corpus": 2}


def test_a_clean_corpus_says_what_was_taken_out(place: Path) -> None:
    found = contamination(place / "results", place / "clean")
    assert found["standing"] == {}
    assert found["removed"] == {"second": ["holds", "too"]}
    scores = found["protocols"]["letters-0shot"]
    assert scores["all"] == scores["without those in the corpus"]
    assert scores["those taken out of it"]["n"] == 1


def test_the_command_and_its_refusals(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["biomistral", "contamination", str(place / "results"), "--corpus", str(place / "dirty")])
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("pico: 1 of 4 questions stand in the corpus, 0 were taken out of it when it was built; "
                        "1 are too short to look for")
    assert [line.split()[:2] for line in lines[1:5]] == [["letters-0shot"], ["all", "4"], ["without", "those"], ["those", "in"]]
    write_questions(place / "other.parquet", [Question(id="x", task="t", stem="?", options=("a", "b"), answer="A")])
    with pytest.raises(UserError, match=r"is not the benchmark that was asked .* name it with --suite"):
        contamination(place / "results", place / "dirty", place / "other.parquet")
    with pytest.raises(UserError, match="holds an artifact of kind evaluate; one of kind corpus is needed here"):
        contamination(place / "results", place / "results")
    moved = (place / "questions.parquet").rename(place / "moved.parquet")
    with pytest.raises(UserError, match="the benchmark that was asked is gone"):
        contamination(place / "results", place / "dirty")
    assert contamination(place / "results", place / "dirty", moved)["questions"] == 4


def test_the_page_shows_scores_with_and_without(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*words: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["biomistral", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    suite = next(path for path in (place / "questions.parquet", place / "moved.parquet") if path.exists())
    for name in ("dirty", "clean"):
        assert command("contamination", place / "results", "--corpus", place / name, "--suite", suite, "--out",
                       tmp_path / f"{name}.json") == 0
    assert command("report", place / "results", "--contamination", tmp_path / "dirty.json", "--contamination",
                   tmp_path / "clean.json", "--out", tmp_path / "site") == 0
    found = contamination(place / "results", place / "dirty", suite)
    shown = {one["corpus"]: one for one in json.loads((tmp_path / "site" / "results.json").read_text())["contamination"]}
    one = shown[found["corpus"]]
    assert (one["model"], one["questions"], one["standing"], one["removed"], one["too_short"]) == ("pico", 4, 1, 0, 1)
    scores = {row["protocol"]: row["scores"] for row in one["rows"]}
    for protocol, parts in found["protocols"].items():
        assert {name: score and score["accuracy"] for name, score in scores[protocol].items()} == {
            name: pytest.approx(parts[name]["accuracy"], rel=1e-5) if name in parts else None for name in PARTS}
    page = lxml_html.fromstring((tmp_path / "site" / "contamination.html").read_text(encoding="utf-8"))
    tables = page.xpath("//section[@id='contamination']//table")
    assert len(tables) == 2
    captions = sorted(" ".join(table.xpath("./caption")[0].text_content().split()).partition(": ")[2] for table in tables)
    assert [caption.partition(",")[0] for caption in captions] == [f"{count} of 4 questions stand in it" for count in (0, 1)]
    assert "second" not in (tmp_path / "site" / "contamination.html").read_text(encoding="utf-8")
    assert command("report", place / "results", "--out", tmp_path / "plain") == 0
    assert not (tmp_path / "plain" / "contamination.html").exists()


def test_accounts_of_other_results_are_refused(place: Path, tmp_path: Path) -> None:
    suite = next(path for path in (place / "questions.parquet", place / "moved.parquet") if path.exists())
    found = contamination(place / "results", place / "dirty", suite)
    for name, data, message in (("other", {**found, "results": "0" * 64}, "is about results 000000000000, which are not among"),
                                ("same", found, "a second account of 'pico' and corpus"),
                                ("else", {"model": "x"}, r"not what 'biomistral contamination --out' writes \(field required")):
        files = [tmp_path / "good.json", tmp_path / f"{name}.json"]
        for file, content in zip(files, (found, data), strict=True):
            file.write_text(json.dumps(content))
        settings = ReportSettings(results=[str(place / "results")], contamination=[str(file) for file in files])
        with pytest.raises(UserError, match=message):
            execute(settings, tmp_path / "no")
