"""A benchmark beside its translations, on a pico model: nothing collides, gaps are paired, English shots."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import html as lxml_html
from scipy import stats

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.evaluation.fertility import num_units
from biomistral.evaluation.languages import by_language
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.load import load_tokenizer
from biomistral.recipe import canonical_hash
from biomistral.records import Question, read_rows, write_questions
from biomistral.reporting.apart import joined
from biomistral.reporting.compare import compare
from biomistral.reporting.ensemble import ensemble
from biomistral.reporting.record import read_record
from biomistral.reporting.results import read_results
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.words import points
from biomistral.run import execute
from biomistral.scoring.prompts import PROTOCOLS, build_prompt
from tiny import make_model
from tiny_languages import question, questions, write

LANGUAGES = ("en", "pt", "ar", "zh")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico model, a benchmark and its translations."""
    folder = tmp_path_factory.mktemp("languages")
    make_model(folder / "pico", vocab_size=500)
    for language in LANGUAGES:
        write(folder / f"{language}.parquet", language)
    return folder


def run(place: Path, out: str, *translations: str, **changes: Any) -> list[dict[str, Any]]:
    settings = {"model": str(place / "pico"), "benchmark": str(place / "en.parquet"), "dtype": "float32", "shot_sets": 2,
                "translations": [str(place / f"{name}.parquet") for name in translations], "protocols": ["letters-3shot"]}
    execute(EvaluateSettings.model_validate({**settings, **changes}), place / out)
    return list(read_rows(place / out / "answers.parquet"))


def run_of(place: Path, out: str) -> Path:
    """Of English alone."""
    run(place, out, protocols=["letters-0shot"])
    return place / out


def results(place: Path, out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def rows(place: Path) -> list[dict[str, Any]]:
    return run(place, "all", "pt", "ar", "zh", protocols=["letters-3shot", "letters-0shot"], permutations=2)


def test_every_language_is_asked_and_none_hides_another(place: Path, rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 24 * 4 * 2 * (2 + 1)
    keys = {(row["protocol"], row["shot_set"], row["permutation"], row["language"], row["question"]) for row in rows}
    assert len(keys) == len(rows)
    summary = results(place, "all")["protocols"]["letters-3shot"]
    assert list(summary["languages"]) == list(LANGUAGES)
    assert (summary["overall"]["n"], summary["languages"]["pt"]["overall"]["n"]) == (96, 24)
    alone = run(place, "alone", protocols=["letters-3shot", "letters-0shot"], permutations=2)
    strip = ("seconds",)
    assert [{**row, **dict.fromkeys(strip)} for row in rows if row["language"] == "en"] == [
        {**row, **dict.fromkeys(strip)} for row in alone], "what is asked beside it changes no answer in English"
    read = read_results(place / "all")
    assert len(read.runs["letters-0shot"].scores) == 96


def test_shots_and_instruction_stay_english(place: Path, rows: list[dict[str, Any]]) -> None:
    """As if each translation was asked behind English shots by itself, with an own copy of them."""
    write_questions(place / "beside.parquet", [one for one in questions("en") if one.split == "dev"]
                    + [one for one in questions("ar") if one.split == "test"])
    alone = run(place, "beside", benchmark=str(place / "beside.parquet"), permutations=2)
    mine = [row for row in rows if row["language"] == "ar" and row["protocol"] == "letters-3shot"]
    assert [row["prompt_hash"] for row in mine] == [row["prompt_hash"] for row in alone]


def test_gaps_are_those_of_the_same_questions(place: Path, rows: list[dict[str, Any]]) -> None:
    found = results(place, "all")["protocols"]["letters-3shot"]["languages"]
    means = {(language, task): {} for language in LANGUAGES for task in ("organs", "signs")}
    for row in rows:
        if row["protocol"] == "letters-3shot":
            means[row["language"], row["task"]].setdefault(row["question"], []).append(row["right"])
    for language in LANGUAGES[1:]:
        pairs = [(np.mean(means[language, task][one]), np.mean(means["en", task][one]))
                 for task in ("organs", "signs") for one in means["en", task]]
        gap = found[language]["gap"]["overall"]
        assert (gap["n"], gap["without_twin"]) == (24, 0)
        assert gap["difference"] == pytest.approx(np.mean([a - b for a, b in pairs]))
        assert gap["low"] <= gap["difference"] <= gap["high"]
        gained, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        assert (gap["gained"], gap["lost"]) == (gained, lost)
        assert gap["p"] == pytest.approx(stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0)
        assert gap["p_holm"] >= gap["p"]
        for task in ("organs", "signs"):
            assert found[language]["tasks"][task]["accuracy"] == pytest.approx(
                np.mean([np.mean(one) for one in means[language, task].values()]))
        assert found[language]["calibration"]["ece"] >= 0
    assert found["en"]["gap"] is None


def answer(language: str, number: int, right: bool, task: str = "t") -> dict[str, Any]:
    return {"protocol": "letters-0shot", "language": language, "task": task, "question": f"q{number}", "cluster": f"c{number}",
            "shot_set": 0, "right": right, "probabilities": [0.7, 0.3], "letter_mass": 1.0, "open_right": right, "answer": "A",
            "permutation": 0}


def test_a_language_that_is_worse_on_the_same_questions_is_told_so_and_extra_ones_count_in_no_gap() -> None:
    """30 questions: Portuguese loses 12 of those that English has right, and has 5 that English has not, all right."""
    made = [answer("en", number, number < 20) for number in range(30)]
    made += [answer("pt", number, number < 8) for number in range(30)] + [answer("pt", 100 + number, True) for number in range(5)]
    made += [answer("sw", 200, True)]
    found = by_language(made)
    gap = found["pt"]["gap"]["overall"]
    assert (gap["n"], gap["without_twin"], gap["gained"], gap["lost"]) == (30, 5, 0, 12)
    assert gap["difference"] == pytest.approx(-0.4)
    assert gap["high"] < 0
    assert gap["p"] == pytest.approx(2 * 0.5**12)
    assert gap["p_holm"] == gap["p"], "Swahili has no pair, so one language is tested"
    assert found["pt"]["overall"]["accuracy"] == pytest.approx(13 / 35)
    assert found["sw"]["gap"]["overall"] == {"n": 0, "without_twin": 1, **dict.fromkeys(
        ("accuracy", "english", "difference", "low", "high", "gained", "lost", "p", "p_holm"))}
    assert by_language([row for row in made if row["language"] == "pt"])["pt"]["gap"] is None, "English was not asked"


def test_fertility_counts_tokens_of_words_and_of_characters_where_there_are_none(place: Path, rows: list[dict[str, Any]]) -> None:
    found = results(place, "all")["fertility"]
    tokenizer = load_tokenizer(place / "pico")
    asked = [one for one in questions("pt") if one.split == "test"]
    texts = [text for one in asked for text in (one.stem, *one.options)]
    portuguese = found["languages"]["pt"]
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert (portuguese["tokens"], portuguese["units"]) == (tokens, sum(len(text.split()) for text in texts))
    assert found["languages"]["en"]["premium"] == 1
    assert portuguese["premium"] == pytest.approx(tokens / found["languages"]["en"]["tokens"])
    assert found["languages"]["zh"]["unit"] == "character"
    assert num_units("第 1 个肺", "zh") == 4
    assert found["context_length"] == 512
    assert portuguese["near_limit"] == {"letters-3shot": 0, "letters-0shot": 0}


def test_twins_are_one_piece_of_evidence(rows: list[dict[str, Any]]) -> None:
    clusters: dict[str, set[str]] = {}
    for row in rows:
        clusters.setdefault(row["question"], set()).add(row["cluster"])
    assert all(len(found) == 1 for found in clusters.values())


def test_translated_protocols_speak_the_language_of_the_question(place: Path) -> None:
    """Scaffold and shots: a translation is asked as if it were alone."""
    for language in ("en", "pt"):
        write(place / f"pairs-{language}.parquet", language, tasks=("pairs",), count=4)
    names, english = ["letters-3shot", "translated-3shot", "translated-0shot"], str(place / "pairs-en.parquet")
    found = run(place, "scaffold", "pairs-pt", protocols=names, benchmark=english)
    alone = run(place, "own", protocols=["translated-3shot"], benchmark=str(place / "pairs-pt.parquet"))
    hashes = {(name, language): [row["prompt_hash"] for row in found if (row["protocol"], row["language"]) == (name, language)]
              for name in names for language in ("en", "pt")}
    assert hashes["translated-3shot", "pt"] == [row["prompt_hash"] for row in alone]
    assert hashes["translated-3shot", "en"] == hashes["letters-3shot", "en"], "in English it is the published prompt"
    assert not set(hashes["translated-3shot", "pt"]) & set(hashes["letters-3shot", "pt"])


def test_the_words_of_a_scaffold_are_in_the_results_and_on_the_page(place: Path) -> None:
    run(place, "words", "ar", protocols=["translated-0shot", "translated-generate-0shot"])
    summary = results(place, "words")["protocols"]["translated-0shot"]
    assert {name: words["answer"] for name, words in summary["definition"]["scaffold"].items()} == {
        "en": "Answer", "ar": "الإجابة"}
    assert summary["definition_hash"] == canonical_hash(PROTOCOLS["translated-0shot"].definition(["ar", "en"]))
    execute(ReportSettings.model_validate({"results": [str(place / "words")]}), place / "words-site")
    page = lxml_html.fromstring((place / "words-site" / "provenance.html").read_text(encoding="utf-8"))
    assert [words.get("dir") for words in page.xpath("//dd/dl/dd") if "الإجابة" in words.text] == ["auto"] * 2


def test_shots_in_the_language_that_are_not_there_are_named(place: Path) -> None:
    few = [one for one in questions("pt") if one.split == "test" or (one.task == "signs" and one.id != "signs-0")]
    write_questions(place / "few.parquet", [one for one in few if one.id not in ("signs-1", "signs-2", "signs-3")])
    with pytest.raises(UserError, match=r"translated-3shot needs 3 shots .* for organs in 'pt' \(0\), signs in 'pt' \(1\); "
                                        "translate these splits too, or choose a 0-shot protocol$"):
        run(place, "refused", "few", protocols=["translated-3shot"])


def test_yes_and_no_are_asked_in_the_language(place: Path, tmp_path: Path) -> None:
    english = Question(id="p", task="pubmedqa", stem="?", options=("yes", "no", "maybe"), answer="B")
    made = {language: english.model_copy(update={"language": language}) for language in ("en", "fr")}
    for language, one in made.items():
        write_questions(tmp_path / f"{language}.parquet", [one])
    found = {row["protocol"]: row for row in run(
        place, "yes", benchmark=str(tmp_path / "en.parquet"), translations=[str(tmp_path / "fr.parquet")], permutations=2,
        protocols=["letters-0shot", "translated-0shot"]) if row["language"] == "fr" and not row["permutation"]}
    own = made["fr"].model_copy(update={"options": ("oui", "non", "peut-être")})
    for name, asked in (("letters-0shot", made["fr"]), ("translated-0shot", own)):
        prompt = build_prompt(asked, [], PROTOCOLS[name])
        assert found[name]["prompt_hash"] == canonical_hash([prompt, *asked.options])[:16]


def test_some_languages_only_and_a_limit_keeps_the_same_questions_in_all(place: Path) -> None:
    found = run(place, "limited", "pt", "ar", "zh", languages=["en", "zh"], limit=5, protocols=["cloze-sum"])
    by_id: dict[str, list[str]] = {}
    for row in found:
        by_id.setdefault(row["question"], []).append(row["language"])
    assert len(by_id) == 10
    assert all(sorted(languages) == ["en", "zh"] for languages in by_id.values())


def test_questions_too_long_in_one_language_stay_in_the_others(place: Path) -> None:
    long = question("organs", 7, "pt", stem="fígado " * 400)
    write_questions(place / "long.parquet", [long if one.id == long.id else one for one in questions("pt")])
    found = run(place, "long", "long", too_long="drop", protocols=["letters-0shot"])
    assert {row["language"] for row in found if row["question"] == long.id} == {"en"}
    data = results(place, "long")
    assert data["left_out"] == [["letters-0shot", 0, long.id, "pt"]]
    assert data["protocols"]["letters-0shot"]["languages"]["pt"]["gap"]["overall"]["n"] == 23


def test_what_works_on_answers_tells_languages_apart(place: Path, rows: list[dict[str, Any]]) -> None:
    one = run(place, "one", "pt", protocols=["letters-0shot"])
    run(place, "two", "pt", protocols=["letters-0shot"], name="other")
    together = ensemble([place / "one", place / "two"])["letters-0shot"]
    assert together["ensemble"]["overall"]["n"] == 48
    assert together["ensemble"]["overall"]["accuracy"] == pytest.approx(np.mean([row["right"] for row in one]))
    compared = {(row["kind"], row["scope"]): row for row in compare(place / "one", [place / "two"])}
    assert compared["language", "pt"]["n"] == 24
    assert compared["overall", "overall"]["n"] == 48
    with pytest.raises(UserError, match="the questions differs"):
        compare(place / "one", [run_of(place, "english")])


def test_languages_measured_apart_are_paired_as_if_asked_together(place: Path, capsys: pytest.CaptureFixture[str],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    run(place, "both", "pt", "zh", protocols=["letters-0shot", "cloze-sum"])
    english = run_of(place, "apart-en")
    for language in ("pt", "zh"):
        run(place, f"apart-{language}", benchmark=str(place / f"{language}.parquet"), protocols=["letters-0shot"])
    folders = [place / f"apart-{language}" for language in ("pt", "zh")]
    expected = results(place, "both")["protocols"]["letters-0shot"]["languages"]
    beside = [one for folder in folders for one in read_results(folder).runs.values()]
    found = joined(read_results(english).runs["letters-0shot"], beside).summary.model_dump()["languages"]
    assert {name: one["gap"] for name, one in found.items()} == {name: one["gap"] for name, one in expected.items()}
    assert {name: one["overall"]["accuracy"] for name, one in found.items()} == {
        name: one["overall"]["accuracy"] for name, one in expected.items()}

    made = {(row["model"], row["kind"], row["scope"]): row for row in compare(english, folders)}
    gap = expected["zh"]["gap"]
    for scope, one in (("overall", gap["overall"]), *gap["tasks"].items()):
        row = made["pico in zh", "overall" if scope == "overall" else "task", scope]
        assert {name: row[name] for name in ("n", "difference", "low", "high", "p", "p_holm")} == {
            name: one[name] for name in ("n", "difference", "low", "high", "p", "p_holm")}
        assert row["baseline_accuracy"] == one["english"]
    monkeypatch.setattr(sys, "argv", ["biomistral", "compare", str(english), *map(str, folders)])
    with pytest.raises(SystemExit):
        main()
    assert "letters-0shot: pico in pt minus pico in en, same questions" in capsys.readouterr().out

    execute(ReportSettings.model_validate({"results": list(map(str, (folders[0], english, folders[1])))}), place / "apart-site")
    page = lxml_html.fromstring((place / "apart-site" / "languages.html").read_text(encoding="utf-8"))
    heads = [cell.text.strip() for cell in page.xpath("//table[contains(@class, 'map')]")[0].xpath("./thead//th")]
    assert heads == ["Model", "English (en)", "Portuguese (pt)", "Chinese (zh)"]
    gap = expected["zh"]["gap"]["overall"]["difference"]
    assert points(gap) in page.xpath("//table[contains(@class, 'map')]")[0].text_content()


def test_languages_measured_apart_that_cannot_be_paired_are_refused_in_a_line(place: Path) -> None:
    english = run_of(place, "apart-en")
    write_questions(place / "strange.parquet", [one.model_copy(update={"id": f"x{one.id}"}) for one in questions("pt")])
    changed = [one.model_copy(update={"answer": "A"}) if one.id == "organs-6" else one for one in questions("pt")]
    write_questions(place / "changed.parquet", changed)
    for name, first, message in (("strange", False, "nothing to compare: the benchmark differs"),
                                 ("changed", False, "question 'organs-6' has 4 options and answer A, in .* answer C"),
                                 ("pt", True, "name the folder with the English questions first")):
        run(place, f"apart-{name}", benchmark=str(place / f"{name}.parquet"), protocols=["letters-0shot"])
        folders = [english, place / f"apart-{name}"]
        with pytest.raises(UserError, match=message) as caught:
            compare(folders[first], [folders[not first]])
        assert "\n" not in str(caught.value)


def spoilt(**changes: Any) -> list[Question]:
    return [question("organs", 6, "pt", **changes), *(one for one in questions("pt") if one.id != "organs-6")]


@pytest.mark.parametrize(("made", "message"), [
    (spoilt(answer="A"), "'organs-6': in 'pt' it has 4 options and answer A, in English 4 and C; a translation keeps both"),
    (spoilt(options=("a", "b", "c")), "in 'pt' it has 3 options and answer C, in English 4 and C"),
    (questions("en"), "holds no question that the benchmarks before it lack"),
    ([question("organs", 6, stem="Other words?")], r"question 'organs-6' is in another benchmark too.*\('en'\)"),
    ([one.model_copy(update={"id": f"x{one.id}"}) for one in questions("pt")],
     "none of its 24 questions has the task and id of an English one"),
])
def test_what_is_no_translation_is_refused_in_one_line(place: Path, tmp_path: Path, made: list[Question], message: str) -> None:
    write_questions(tmp_path / "x.parquet", made)
    with pytest.raises(UserError, match=message) as caught:
        run(place, "refused", translations=[str(tmp_path / "x.parquet")])
    assert "\n" not in str(caught.value)


def test_a_language_that_is_not_there(place: Path) -> None:
    with pytest.raises(UserError, match=r"language 'ptt': no question of split 'test' is in it; did you mean 'pt'"):
        run(place, "refused", "pt", languages=["en", "ptt"])


def test_questions_without_a_twin_are_said(place: Path) -> None:
    write_questions(place / "more.parquet", [*questions("pt"), question("organs", 99, "pt")])
    run(place, "more", "more", protocols=["cloze-sum"])
    data = results(place, "more")
    assert data["benchmark"]["translations"][0] | {"key": ""} == {
        "name": "more", "key": "", "languages": ["pt"], "questions": 25, "without_twin": 1, "translated_by": ["by hand"]}
    assert any("more: 1 of 25 questions have no English one" in warning for warning in data["warnings"])


def test_the_leaderboard_has_a_table_a_language(place: Path, rows: list[dict[str, Any]]) -> None:
    execute(ReportSettings.model_validate({"results": [str(place / "all")], "notes": ["ملاحظة"]}), place / "site")
    page = lxml_html.fromstring((place / "site" / "index.html").read_text(encoding="utf-8"))
    languages = results(place, "all")["protocols"]["letters-3shot"]["languages"]
    tables = {part.get("data-language"): part for part in page.xpath(
        "//section[@id='board-0']//div[contains(@class, 'slice')]")}
    assert list(tables) == ["", *LANGUAGES]
    heads = [head.get("data-key") for head in tables[""].xpath(".//th[@data-key]")]
    assert [head for head in heads if head.startswith("language:")] == [f"language:{one}" for one in LANGUAGES]
    for language, own in languages.items():
        keys = [head.get("data-key") for head in tables[language].xpath(".//th[@data-key]")]
        cells = dict(zip(keys, (" ".join(cell.text_content().split()) for cell in tables[language].xpath(".//tbody/tr/*")),
                         strict=True))
        assert ("gap" in cells) == (own["gap"] is not None) == (language != "en"), "English has no gap to itself"
        low, high = own["tasks"]["signs"]["interval"]
        assert cells["task:signs"] == f"{100 * own['tasks']['signs']['accuracy']:.1f} {100 * low:.1f}–{100 * high:.1f}"
        assert cells["ece"] == f"{own['calibration']['ece']:.1f}"
    assert page.xpath("//ul[@class='notes']/li/@dir") == ["auto"]
    shown = read_record(json.loads((place / "site" / "results.json").read_text()))["boards"][0]["rows"][0]
    assert shown["languages"]["pt"]["gap"]["overall"] == pytest.approx(languages["pt"]["gap"]["overall"], abs=5e-6, rel=1e-2)


def test_the_command_prints_a_column_a_language(place: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model", str(place / "pico"), "--suite", str(place / "en.parquet"), "--translations", str(place / "pt.parquet"),
             "--translations", str(place / "ar.parquet"), "--languages", "en,pt", "--protocols", "letters-0shot"]
    monkeypatch.setattr(sys, "argv", ["biomistral", "evaluate", *words, "--dtype", "float32", "--out", str(place / "table")])
    with pytest.raises(SystemExit):
        main()
    _, first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.splitlines()[0].split() == ["letters-0shot,", "2", "languages", "questions", "pico"]
    lines = [line.split("  ") for line in second.splitlines()]
    assert [line[0] for line in lines] == [
        "letters-0shot, pico", "organs", "signs", "average of tasks", "all questions", "questions", "without an English twin",
        "p of the gap (McNemar, Holm)", "ECE, points", "tokens a word", "tokens, English = 1",
        "prompts near the context's end, %"]
    portuguese = results(place, "table")["protocols"]["letters-0shot"]["languages"]["pt"]
    gap = portuguese["gap"]["tasks"]["organs"]
    assert lines[1][-1].strip() == (f"{100 * portuguese['tasks']['organs']['accuracy']:.1f} ({100 * gap['difference']:+.1f} "
                                    f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}])")
