"""The detail pages of a site, from real results of pico models: two languages, a merge, its quantised form, text like markup."""

import base64
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from lxml import html as lxml_html

from biomistral.recipe import parse
from biomistral.records import Question, read_questions, read_rows
from biomistral.reporting.compare import paired
from biomistral.reporting.results import read_results
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.words import p_words, points
from biomistral.run import execute, settings_class
from biomistral.scoring.permutations import published_letter, published_probabilities
from biomistral.scoring.prompts import PROTOCOLS, build_prompt, choose_shots
from biomistral.statistics import differences, holm, mcnemar
from tiny import TEXT, make_model
from tiny_results import make_chain, make_results

EVIL = "<script>alert(1)</script> $x^2$ & \"b\""
TASKS = ("anatomy", "codes <i>")
STEMS = {"en": "What is code {} of {}?", "ar": "ما هو الرمز {} من {}؟"}


def _questions(language: str) -> Iterator[dict[str, Any]]:
    for task in TASKS:
        for split, count in (("dev", 3), ("test", 5)):
            for number in range(count):
                yield {"id": f"{task}/{split}/{number}", "task": task, "language": language, "split": split,
                       "stem": STEMS[language].format(number, task), "options": [EVIL, "heart", f"lung {number}", "مرض السكري"],
                       "answer": "ABCD"[number % 4], "context": "A patient.\nSecond line." if number == 1 else None}


def _made(kind: str, out: Path, **settings: Any) -> Path:
    return execute(parse(settings_class(kind), settings, "the test"), out).path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results folders of three models, and the site made of them."""
    root = tmp_path_factory.mktemp("real")
    for language in STEMS:
        lines = [json.dumps(row, ensure_ascii=False) for row in _questions(language)]
        (root / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    parents = [make_model(root / name, seed) for seed, name in enumerate(("base", "other"))]
    sources = "".join(f"  - model: {parent}\n    layer_range: [0, 2]\n" for parent in parents)
    (root / "merge.yaml").write_text(f"merge_method: slerp\nbase_model: {parents[0]}\nslices:\n- sources:\n{sources}"
                                     "parameters:\n  t: 0.3\ndtype: float32\n")
    merged = _made("merge", root / "merged", config=str(root / "merge.yaml"))
    (root / "text.txt").write_text(TEXT * 20, encoding="utf-8")
    quantised = _made("quantize", root / "quantised", model=str(merged), calibration=str(root / "text.txt"), method="rtn",
                      group_size=32, samples=1, sequence_length=32, evaluation_samples=1)
    for name, model in {"base": parents[0], "merged": merged, EVIL: quantised}.items():
        _made("evaluate", root / f"results-{model.name}", model=str(model), name=name, benchmark=str(root / "en.jsonl"),
              translations=[str(root / "ar.jsonl")], permutations=2, shot_sets=2, dtype="float32",
              protocols=["letters-0shot", "letters-3shot", "cloze-mean", "generate-0shot"], too_long="fewer-shots")
    folders = {name: root / f"results-{name}" for name in ("base", "merged", "quantised")}
    execute(ReportSettings(results=[str(folder) for folder in folders.values()], title=EVIL), root / "site")
    return {**folders, "site": root / "site", "questions": root / "en.jsonl"}


def _page(site: Path, path: str) -> Any:
    return lxml_html.fromstring((site / path).read_text(encoding="utf-8"))


def _words(element: Any) -> str:
    return " ".join(element.text_content().split())


def _rows(table: Any) -> dict[str, list[str]]:
    return {_words(row.xpath("./th")[0]): [_words(cell) for cell in row.xpath("./td")] for row in table.xpath("./tbody/tr")}


def _task_page(site: Path, task: str, language: str = "") -> Any:
    for row in _page(site, "tasks/index.html").xpath("//tbody/tr"):
        if _words(row.xpath("./th")[0]) == task:
            path = row.xpath("./th/a/@href")[0].removeprefix("../")
            page = _page(site, path)
            return page.xpath("//section[@id=$part]", part=f"in-{language}")[0] if language else page
    raise AssertionError(task)


def _model_page(site: Path, name: str) -> Any:
    pages = [_page(site, f"models/{path.name}") for path in (site / "models").glob("*.html")]
    return next(page for page in pages if page.xpath("//h1")[0].text_content() == name)


def test_every_page_is_sound_html(real: dict[str, Path]) -> None:
    site = real["site"]
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 1 + 3 + 1 + 2 + 4 + 1
    for path in pages:
        page = lxml_html.fromstring(path.read_text(encoding="utf-8"))
        where = path.relative_to(site).as_posix()
        assert not [one for one in page.xpath("//script") if not one.get("src") and not one.get("type")], where
        assert not page.xpath("//i"), f"{where}: markup of a name became markup"
        ids = page.xpath("//@id")
        assert len(ids) == len(set(ids)), where
        for link in page.xpath("//@href | //@src"):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{where}: {link}"
            if anchor:
                assert lxml_html.fromstring(target.read_text(encoding="utf-8")).xpath(f"//*[@id='{anchor}']"), f"{where}: {link}"
        for table in page.xpath("//table"):
            assert _words(table.xpath("./caption")[0]), where
            assert all(head.get("scope") == "col" for head in table.xpath("./thead//th")), where
            assert all([cell.tag for cell in row] == ["th", *["td"] * (len(row) - 1)] for row in table.xpath("./tbody/tr")), where
            assert len({len(row.xpath("./*")) for row in table.xpath(".//tr")}) == 1, where


def test_model_page_shows_the_scores_of_its_results(real: dict[str, Path]) -> None:
    page = _model_page(real["site"], "merged")
    table = page.xpath("//section[@id='scores']//table")[0]
    protocols = [_words(link) for link in table.xpath("./thead//a")]
    rows, runs = _rows(table), read_results(real["merged"]).runs
    assert protocols == list(runs)
    for task in TASKS:
        for protocol, cell in zip(protocols, rows[task], strict=True):
            score = runs[protocol].summary.tasks[task]
            low, high = (100 * end for end in score.interval)
            assert cell == f"{100 * score.accuracy:.1f}{low:.1f}–{high:.1f}"
    assert rows["mean of the tasks"] == [f"{100 * run.summary.average:.1f}" for run in runs.values()]
    languages = _rows(page.xpath("//section[@id='languages']//table")[0])
    gap = runs["letters-0shot"].summary.languages["ar"].gap
    assert gap is not None
    assert gap.overall.difference is not None
    assert languages["all questions"][1].split("[")[0].endswith(f"{100 * gap.overall.difference:.1f} ".replace("-", "−"))


def test_model_page_tells_how_it_was_made(real: dict[str, Path]) -> None:
    page = _model_page(real["site"], EVIL)
    making = page.xpath("//section[@id='making']")[0]
    assert [_words(head).split(":")[0] for head in making.xpath(".//h3")] == ["Quantised", "Merged"]
    facts = json.loads((real["quantised"].parent / "quantised" / "quantization.json").read_text())
    quantised, merged = (_rows(table) for table in making.xpath("./div[@class='scroll']/table"))
    assert quantised["Bits a weight"] == ["16.00", f"{facts['size']['bits_per_weight']:.2f}"]
    assert quantised["Perplexity"] == [f"{facts['perplexity'][which]:.2f}" for which in ("reference", "quantized")]
    drift = json.loads((real["merged"].parent / "merged" / "merge.json").read_text())["drift"]
    assert merged == {Path(name).name: [f"{100 * value:.2f}\N{NO-BREAK SPACE}%".replace("\N{NO-BREAK SPACE}", " ")]
                      for name, value in drift.items()}
    assert making.xpath(".//figure/svg"), "drift by layer is drawn"
    assert _model_page(real["site"], "merged").xpath("//a[text()='Model card']/@href"), "merge wrote a card"
    for path in real["site"].rglob("*.*"):
        assert str(real["site"].parent) not in path.read_text(encoding="utf-8") or path.name == "manifest.json", path


def test_task_page_shows_what_the_model_saw(real: dict[str, Path]) -> None:
    page = _task_page(real["site"], "codes <i>")
    questions = read_questions(real["questions"])
    section = next(one for one in page.xpath("//section[@id='all']/section") if "letters-3shot" in _words(one.xpath("./h3")[0]))
    protocol = PROTOCOLS["letters-3shot"]
    asked = next(question for question in questions if question.id == "codes <i>/test/0")
    shots = choose_shots(questions, "codes <i>", protocol, 0, 0, "test", "en")
    shown = int(re.search(r"with (\d) example", section.text_content())[1])  # fewer than three: the pico model reads 512 tokens
    assert section.xpath(".//pre")[0].text_content() == build_prompt(asked, shots[:shown], protocol)
    assert "The hash recorded with its answer is this text's." in section.text_content()
    counts = [int(cells[0]) for cells in _rows(section.xpath(".//table[contains(@class, 'bars')]")[0]).values()]
    assert sum(counts) == 10, "five questions in two languages"
    definitions = page.xpath("//section[@id='definitions']")[0].text_content()
    assert read_results(real["base"]).runs["letters-3shot"].summary.definition_hash in definitions


def test_task_page_of_a_language_is_about_that_language(real: dict[str, Path]) -> None:
    page = _task_page(real["site"], "anatomy", "ar")
    stems = page.xpath(".//p[contains(@class, 'stem')]")
    assert len(stems) == 3
    assert all(stem.text.startswith("ما هو") and stem.get("dir") == "auto" for stem in stems)
    assert "ما هو" in page.xpath(".//pre")[0].text_content()
    accuracies = {name: cells[0] for name, cells in _rows(page.xpath(".//table[contains(@class, 'board')]")[0]).items()}
    run = read_results(real["base"]).runs["letters-0shot"]
    score = run.summary.languages["ar"].tasks["anatomy"]
    assert accuracies["base"].startswith(f"{100 * score.accuracy:.1f}")


def test_without_the_benchmark_the_pages_say_so(real: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "results"
    shutil.copytree(real["base"], moved)
    text = (moved / "manifest.json").read_text()
    (moved / "manifest.json").write_text(text.replace(str(real["questions"]), "/gone/en.jsonl"))
    execute(ReportSettings(results=[str(moved)]), tmp_path / "site")
    page = _task_page(tmp_path / "site", "anatomy")
    assert "no longer where it was" in page.text_content()
    assert not page.xpath("//section[@id='examples']")


def test_a_model_trained_here_shows_its_curve_and_its_corpus_licences(tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "run")
    (chain["adapted"] / "README.md").write_text(f"# {EVIL}\n", encoding="utf-8")
    execute(ReportSettings(results=[str(make_results(tmp_path, chain, "adapted", "adapted"))]), tmp_path / "site")
    page = _model_page(tmp_path / "site", "adapted")
    assert _words(page.xpath("//section[@id='making']//h3")[0]).startswith("Trained further: adapted")
    assert _words(page.xpath("//section[@id='making']//figure//tbody/tr/th")[0]) == "adapted"
    assert "CC-BY-4.0 2, CC0-1.0 1" in page.xpath("//section[@id='lineage']")[0].text_content()
    card = page.xpath("//a[text()='Model card']/@href")[0].removeprefix("../")
    assert (tmp_path / "site" / card).read_text(encoding="utf-8") == f"# {EVIL}\n"
    make_results(tmp_path, chain, "adapted", "base", out="no-card")
    execute(ReportSettings(results=[str(tmp_path / "no-card")]), tmp_path / "again")
    assert not _model_page(tmp_path / "again", "adapted").xpath("//a[text()='Model card']")


def test_the_prompt_of_a_chat_is_shown_in_turns() -> None:
    from biomistral.reporting.asked import Asked, prompt

    question = Question(id="1", task="t", stem="Why?", options=("a", "b"), answer="A")
    asked = Asked({("en", "1"): question}, {}, "test", 0)
    found = prompt(asked, "chat-0shot", "t", "en", {"question": "1", "prompt_hash": "x", "shots": 0})
    assert found is not None
    assert [role for role, _ in found.turns] == ["user"]
    assert not found.proved
    assert prompt(asked, "chat-3shot", "t", "en", {"question": "1", "prompt_hash": "x", "shots": 3}) is None, "no shots there"
    assert prompt(asked, "of another version", "t", "en", {"question": "1", "prompt_hash": "x", "shots": 0}) is None


def _data(file: Path) -> Any:
    """What a data file hands to ``siteData``."""
    text = file.read_text(encoding="ascii")
    assert text.startswith("siteData(")
    assert text.endswith(");\n")
    name, value = json.loads(f"[{text[len('siteData('):-3]}]")
    assert name == f"data/{file.name}"
    return value


def _index(site: Path, page: str) -> Any:
    return json.loads(_page(site, page).xpath("//script[@id='index']")[0].text)


def _answered(folder: Path, protocol: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of each question, those of the first shots and the published order first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_rows(folder / "answers.parquet"):
        if row["protocol"] == protocol:
            found.setdefault((row["question"], row["language"]), []).append(row)
    return found


@pytest.mark.parametrize("protocol", ["letters-0shot", "letters-3shot", "cloze-mean", "generate-0shot"])
def test_explorer_holds_every_answer_task_by_task(real: dict[str, Path], protocol: str) -> None:
    site = real["site"]
    questions = {question.id: question for question in read_questions(real["questions"])}
    board = next(one for one in _index(site, "questions.html")["boards"] if one["protocol"] == protocol)
    place, rows = board["models"].index("merged"), _answered(real["merged"], protocol)
    assert sum(scope["n"] for scope in board["scopes"]) == len(rows) == 20
    for scope in board["scopes"]:
        texts, answers = _data(site / scope["text"]), _data(site / scope["answers"])
        model = answers["models"][place]
        chosen, shares, probabilities = (base64.b64decode(model[name]) for name in ("chosen", "share", "probabilities"))
        assert len(texts) == scope["n"]
        for index, text in enumerate(texts):
            found = rows[text["id"], scope["language"]]
            assert len(found) == answers["ways"]
            letters = Counter(published_letter(row, row["chosen"]) for row in found)
            assert letters[chr(65 + chosen[index]) if chosen[index] != 255 else ""] == max(letters.values())
            assert {chr(65 + text["answer"])} == {published_letter(row, row["answer"]) for row in found}
            assert shares[index] == round(200 * np.mean([row["right"] for row in found]))
            if model["options"]:
                stored = np.frombuffer(probabilities, np.uint8).reshape(len(texts), -1)[index] / 200
                assert stored == pytest.approx(np.mean([published_probabilities(row) for row in found], axis=0), abs=0.0026)
            if model["said"]:
                assert model["said"][index] == found[0]["said"]
            if scope["language"] == "en":
                asked = questions[text["id"]]
                assert (text["stem"], text["options"], text["context"]) == (asked.stem, list(asked.options), asked.context)


def test_the_setting_caps_the_questions_or_leaves_them_out(real: dict[str, Path], tmp_path: Path) -> None:
    for count in (0, 2):
        execute(ReportSettings(results=[str(real["base"]), str(real["merged"])], questions=count), tmp_path / str(count))
    assert not (tmp_path / "0" / "data").exists()
    assert not (tmp_path / "0" / "questions.html").exists()
    scopes = _index(tmp_path / "2", "questions.html")["boards"][0]["scopes"]
    assert [len(_data(tmp_path / "2" / scope["text"])) for scope in scopes] == [2] * 4
    size = sum(file.stat().st_size for file in (tmp_path / "0").rglob("*") if file.is_file())
    assert size < 5_000_000


def test_tradeoff_shows_both_sides_of_the_report(real: dict[str, Path]) -> None:
    facts = json.loads((real["quantised"].parent / "quantised" / "quantization.json").read_text())
    rows = _rows(_page(real["site"], "quantisation.html").xpath("//table[contains(@class, 'board')]")[0])
    assert rows["merged"][0] == "16 bits"
    assert rows[EVIL][0] == "rtn, 4 bits"
    assert rows[EVIL][5] == f"{facts['size']['bits_per_weight']:.2f}"
    assert [rows[name][6] for name in ("merged", EVIL)] == [f"{facts['perplexity'][which]:.2f}"
                                                             for which in ("reference", "quantized")]
    first, second = (read_results(real[name]).runs["letters-0shot"] for name in ("quantised", "merged"))
    difference = 100 * float((first.scores - second.scores).mean())
    assert float(rows[EVIL][2].split("[")[0].replace("−", "-")) == pytest.approx(difference, abs=0.06)
    assert "base" not in rows, "nothing was quantised from it"


def test_languages_page_has_every_model_in_every_language(real: dict[str, Path]) -> None:
    table = _page(real["site"], "languages.html").xpath("//table[contains(@class, 'map')]")[0]
    assert [_words(head) for head in table.xpath("./thead//th")] == ["Model", "English (en)", "Arabic (ar)"]
    for name, folder in (("base", "base"), ("merged", "merged"), (EVIL, "quantised")):
        scores = read_results(real[folder]).runs["letters-0shot"].summary.languages
        shown = [cell.text for row in table.xpath("./tbody/tr") if _words(row[0]) == name for cell in row[1:]]
        assert shown == [f"{100 * one.overall.accuracy:.1f}" for one in scores.values()]


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def _drawn(site: Path, address: str, folder: Path) -> Any:
    """The page as its scripts leave it."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
               "--virtual-time-budget=5000", "--dump-dom", f"file://{site}/{address}"]
    return lxml_html.fromstring(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@needs_browser
def test_explorer_filters_where_two_models_differ(real: dict[str, Path], tmp_path: Path) -> None:
    state = urlencode({"board": 2, "task": "codes <i>/ar", "a": "base", "b": EVIL, "show": "differ", "order": "apart"})
    page = _drawn(real["site"], f"questions.html#{state}", tmp_path)
    asked = ("cloze-mean", "codes <i>", "ar")
    rows = [{row["question"]: row["chosen"] for row in read_rows(real[name] / "answers.parquet")
             if (row["protocol"], row["task"], row["language"]) == asked} for name in ("base", "quantised")]
    differ = {name for name, chosen in rows[0].items() if rows[1][name] != chosen}
    assert {_words(code) for code in page.xpath("//article//code")} == differ
    assert _words(page.xpath("//p[@id='status']")[0]) == f"{len(differ)} of 5 questions"
    assert not page.xpath("//article//script")
    assert EVIL in [_words(option) for option in page.xpath("//select[@name='b']/option")]


def test_pairs_are_those_of_the_statistics(real: dict[str, Path]) -> None:
    page = _page(real["site"], "compare.html")
    section = next(one for one in page.xpath("//section[starts-with(@id, 'pairs-')]") if "cloze-mean" in one.text_content())
    rows = [[_words(cell) for cell in row.xpath("./*")] for row in section.xpath(".//tbody/tr")]
    runs = {name: read_results(real[folder]).runs["cloze-mean"]
            for name, folder in (("base", "base"), ("merged", "merged"), (EVIL, "quantised"))}
    assert len(rows) == 3
    found = [paired(runs[first], runs[second]) for first, second, *_ in rows]
    corrected = holm([one.p for one in found])
    for row, one, p in zip(rows, found, corrected, strict=True):
        assert row[2].split("[")[0].rstrip(" ▲▼") == points(one.difference)
        assert row[2].endswith(f"[{points(one.low)}, {points(one.high)}]")
        assert [int(cell) for cell in row[3:5]] == [one.gained, one.lost]
        assert row[5] == " ".join(p_words(p).split())


@needs_browser
def test_two_models_are_compared_in_the_browser_as_here(real: dict[str, Path], tmp_path: Path) -> None:
    number = next(place for place, one in enumerate(_index(real["site"], "compare.html")["boards"])
                  if one["protocol"] == "letters-3shot")
    state = urlencode({"board": number, "a": EVIL, "b": "base", "by": "task,language"})
    table = _drawn(real["site"], f"compare.html#{state}", tmp_path).xpath("//div[@id='found']/table")[0]
    rows = _rows(table)
    mine, theirs = (read_results(real[name]).runs["letters-3shot"] for name in ("quantised", "base"))
    scopes = {"all questions": ("overall", "overall", ""),
              **{f"{task} · {words}": ("task", task, language) for task in TASKS
                 for language, words in (("en", "English (en)"), ("ar", "Arabic (ar)"))}}
    assert set(rows) == set(scopes)
    p_values = {}
    for name, (kind, task, language) in scopes.items():
        places = mine.places(kind, task, language)
        sums, sizes = differences(mine.scores[places], theirs.scores[places], mine.clusters[places])
        gained, lost = int((sums > 1e-9).sum()), int((sums < -1e-9).sum())
        p_values[name] = mcnemar(gained, lost)
        share = sums.sum() / sizes.sum()
        half = 1.959964 * np.sqrt(((sums - sizes * share) ** 2).sum() * len(sums) / (len(sums) - 1)) / sizes.sum()
        assert rows[name][3].split("[")[0].rstrip(" ▲▼") == points(share)
        low, high = (float(end.replace("−", "-")) for end in rows[name][3].split("[")[1].rstrip("]").split(", "))
        assert [low, high] == pytest.approx([100 * (share - half), 100 * (share + half)], abs=0.051)
        assert rows[name][4:6] == [str(gained), str(lost)]
        assert rows[name][6] == p_words(p_values[name]).replace("\N{NO-BREAK SPACE}", " ")
    corrected = holm(list(p_values.values())[1:])
    assert [rows[name][7] for name in list(scopes)[1:]] == [p_words(p).replace("\N{NO-BREAK SPACE}", " ") for p in corrected]
