"""The report: results read and proved, paired comparisons against scipy, and a page that escapes, escapes, escapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import html as lxml_html
from scipy import stats

from biomistral.errors import UserError
from biomistral.reporting import table as table_of
from biomistral.reporting.charts import read_metrics
from biomistral.reporting.compare import compare, discordant, paired, render
from biomistral.reporting.pairwise import differences_of_all, pairs
from biomistral.reporting.record import read_record
from biomistral.reporting.results import read_all, read_results
from biomistral.reporting.settings import ReportSettings
from biomistral.reporting.view import protocol_words, published
from biomistral.reporting.words import points
from biomistral.run import execute
from biomistral.statistics import differences
from tiny_results import make_chain, make_results, rewrite

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_chain(tmp_path_factory.mktemp("chain") / "run")


def _report(out: Path, results: list[Path], **settings: Any) -> tuple[Path, dict[str, Any], Any]:
    execute(ReportSettings(results=[str(folder) for folder in results], **settings), out)
    page = (out / "index.html").read_bytes()
    return out, read_record(json.loads((out / "results.json").read_text(encoding="utf-8"))), lxml_html.fromstring(page)


def _cells(page: Any, board: int, model: str) -> list[str]:
    for row in page.xpath(f"//section[@id='board-{board}']//table[contains(@class, 'board')]/tbody/tr"):
        if row.xpath("./th/@data-sort") == [model]:
            return [" ".join(cell.text_content().split()) for cell in row.xpath("./td")]
    raise AssertionError(model)


def test_page_shows_what_the_answers_say(tmp_path: Path, chain: dict[str, Path]) -> None:
    base = make_results(tmp_path, chain, "base", skill={"taught": 0.2, "untaught": 0.25}, questions=60)
    adapted = make_results(tmp_path, chain, "adapted", "adapted", skill={"taught": 0.9, "untaught": 0.25}, questions=60)
    settings = {"curves": [str(chain["adapted"])], "notes": ["Knowledge, not reasoning."]}
    site, data, page = _report(tmp_path / "site", [base, adapted], **settings)
    ours, theirs = read_results(adapted).runs["cloze-mean"], read_results(base).runs["cloze-mean"]
    board = data["boards"][0]
    assert [row["model"] for row in board["rows"]] == ["adapted", "base"]
    overall = board["rows"][0]["overall"]
    assert overall["accuracy"] == pytest.approx(ours.scores.mean(), abs=5e-6)
    assert overall["right"] / overall["n"] == ours.scores.mean(), "counts are exact"
    difference = board["rows"][0]["group_differences"]["taught"]
    mine, other = ours.scope("group", "taught"), theirs.scope("group", "taught")
    assert difference["difference"] == pytest.approx(mine.mean() - other.mean(), abs=5e-6)
    gained, lost = int((mine > other).sum()), int((mine < other).sum())
    assert (difference["gained"], difference["lost"]) == (gained, lost)
    assert difference["p"] == pytest.approx(stats.binomtest(gained, gained + lost, 0.5).pvalue, rel=5e-3)
    assert difference["low"] < difference["difference"] < difference["high"]
    assert board["chance"] == 0.25
    assert board["rows"][1]["difference"] is None
    lead = " ".join(page.xpath("//main//p[@class='lead']")[0].text_content().split())
    assert lead == (f"adapted answers {100 * mine.mean():.1f} % of the 60 taught questions right, "
                    f"base {100 * other.mean():.1f} %: +{100 * difference['difference']:.1f} points "
                    f"[+{100 * difference['low']:.1f}, +{100 * difference['high']:.1f}].")
    assert _cells(page, 0, "adapted")[:2] == ["1", f"{100 * ours.scores.mean():.1f} best " + "–".join(
        f"{100 * end:.1f}" for end in board["rows"][0]["overall"]["interval"])]
    assert [mark.text_content() for mark in page.xpath("//th/u")] == ["adapted"], "the best, as the paired test says so"
    assert page.xpath("//ul[@class='notes']/li")[0].text == "Knowledge, not reasoning."
    training = lxml_html.fromstring((site / "training.html").read_bytes())
    assert [cell.text_content() for cell in training.xpath("//tbody/tr[1]/*")] == [
        "adapted", "training", "40", f"{3 / 1.1:.3f}", "0.600", "0.600"]
    assert "CC-BY-4.0 2, CC0-1.0 1" in (site / "provenance.html").read_text()


def test_markup_in_names_stays_text(tmp_path: Path, chain: dict[str, Path]) -> None:
    skills = {EVIL: 0.5, "</script>": 0.6}
    results = [make_results(tmp_path, chain, name, skill={"<b>taught": skill}) for name, skill in skills.items()]
    site, _, page = _report(tmp_path / "site", results, title=EVIL, notes=[EVIL, "a & b"])
    assert [script.get("src") or script.get("type") for script in page.xpath("//script")].count(None) == 0
    assert not [script for script in page.xpath("//script") if (script.text or "").startswith("alert")]
    assert page.xpath("//title")[0].text == EVIL
    assert page.xpath("//section[@id='board-0']//th[@scope='row']")[0] is not None
    assert "&lt;b&gt;cloze-mean&lt;/b&gt;\nQuestion" in (site / "provenance.html").read_text(), "a prompt is text too"


def test_page_reaches_nothing_outside_and_tells_no_path(tmp_path: Path, chain: dict[str, Path]) -> None:
    site, _, _ = _report(tmp_path / "site", [make_results(tmp_path, chain, "base")], curves=[str(chain["adapted"])])
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "training.html", "provenance.html"} <= {page.name for page in pages}
    for page in pages:
        for link in lxml_html.fromstring(page.read_bytes()).xpath("//@src | //@href | //@srcset | //@action"):
            assert (page.parent / link.partition("#")[0]).exists(), (page, link)
    for file in (*pages, site / "results.json"):
        assert str(tmp_path) not in file.read_text()
        assert str(chain["base"].parent) not in file.read_text()
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < 1_000_000


def test_tables_are_tables(tmp_path: Path, chain: dict[str, Path]) -> None:
    site, _, _ = _report(tmp_path / "site", [make_results(tmp_path, chain, "a"), make_results(tmp_path, chain, "b", tasks=2)],
                         curves=[str(chain["adapted"])])
    for page in (lxml_html.fromstring(path.read_bytes()) for path in site.rglob("*.html")):
        for table in page.xpath("//table"):
            assert table.xpath("./caption")[0].text_content().strip()
            assert all(head.get("scope") == "col" for head in table.xpath("./thead//th"))
            assert len({len(row.xpath("./*")) for row in table.xpath(".//tr")}) == 1
            assert all([cell.tag for cell in row] == ["th", *["td"] * (len(row) - 1)] for row in table.xpath("./tbody/tr"))
        ids = page.xpath("//@id")
        assert len(ids) == len(set(ids))
        assert {link[1:] for link in page.xpath("//@href") if link.startswith("#")} <= set(ids)


def test_same_bytes_twice(tmp_path: Path, chain: dict[str, Path]) -> None:
    results = [make_results(tmp_path, chain, name, skill={"taught": skill}) for name, skill in (("a", 0.3), ("b", 0.6))]
    for out in ("one", "two"):
        _report(tmp_path / out, results)
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file()]
    assert len(files) > 8
    for name in files:
        assert name.name == "manifest.json" or (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_warnings_are_words(tmp_path: Path, chain: dict[str, Path]) -> None:
    folder = make_results(tmp_path, chain, "stuck", protocols=["letters-0shot"], letter="B", mass=0.12)
    _, data, page = _report(tmp_path / "site", [folder])
    assert [warning["short"] for warning in data["boards"][0]["rows"][0]["warnings"]] == [
        "mostly answers B", "did not follow the prompt", "like guessing"]
    text = " ".join(page.xpath("//ul[@class='warnings']")[0].text_content().split())
    assert "answers B to 100 % of the questions" in text
    assert "only 12.0 % of its probability" in text
    assert data["boards"][0]["finding"] is None, "one model alone has nothing to be compared with"


@pytest.mark.parametrize(("other", "what"), [({"limit": 7}, "limit"), ({"questions": 30}, "questions"),
                                             ({"protocols": ["cloze-sum"]}, "protocol")])
def test_what_was_measured_otherwise_is_never_compared(tmp_path: Path, chain: dict[str, Path], other: dict[str, Any],
                                                       what: str) -> None:
    first, second = make_results(tmp_path, chain, "first"), make_results(tmp_path, chain, "second", **other)
    _, data, page = _report(tmp_path / "site", [first, second])
    assert [[row["model"] for row in board["rows"]] for board in data["boards"]] == [["first"], ["second"]]
    assert data["boards"][1]["baseline"] is None
    assert "has no row here" in page.text_content()
    with pytest.raises(UserError, match=f"the {what} differs"):
        compare(first, [second])


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data["protocols"]["cloze-mean"]["overall"].update(accuracy=0.99), "overall: accuracy: results.json says 0.99"),
    (lambda data: data["protocols"]["cloze-mean"]["groups"]["taught"].update(n=41), "group taught: n: results.json says 41"),
    (lambda data: data["protocols"]["cloze-mean"]["groups"].pop("taught"), "groups: results.json says"),
    (lambda data: data["protocols"]["cloze-mean"]["overall"].update(interval=[0.9, 1.0]), "is not inside its interval"),
    (lambda data: data["protocols"]["cloze-mean"].update(average=0.5), "average of the tasks"),
    (lambda data: data["protocols"].update({"cloze-sum": data["protocols"]["cloze-mean"]}), "has protocols"),
    (lambda data: data["model"].update(name="other"), "is about 'other'"),
    (lambda data: data["protocols"]["cloze-mean"]["overall"].pop("n"), "overall.n: field required"),
    (lambda data: data.update(protocols={}), "protocols"),
])
def test_summary_that_its_answers_do_not_bear_out_is_refused(tmp_path: Path, chain: dict[str, Path], change: Any,
                                                             message: str) -> None:
    folder = make_results(tmp_path, chain, "base")
    rewrite(folder / "results.json", change)
    with pytest.raises(UserError, match=message):
        read_results(folder)
    with pytest.raises(UserError):
        execute(ReportSettings(results=[str(folder)]), tmp_path / "site")
    assert not [path for path in tmp_path.iterdir() if "site" in path.name], "refused before any work"


def test_broken_folders_are_refused(tmp_path: Path, chain: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="not a finished artifact"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="holds an artifact of kind corpus"):
        read_results(chain["corpus"])
    folder = make_results(tmp_path, chain, "base")
    (folder / "answers.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_results(folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json"):
        read_results(folder)


def test_several_models_of_which_one_was_asked_otherwise(tmp_path: Path, chain: dict[str, Path]) -> None:
    first, second = (make_results(tmp_path, chain, name) for name in ("first", "second"))
    other = make_results(tmp_path, chain, "other", questions=30)
    with pytest.raises(UserError, match=f"{first} and {other}: nothing to compare: the questions differs"):
        compare(first, [second, other])
    assert table_of.ranks_of([first, second, other]) == {}
    assert table_of.ranks_of([first]) == {}


def test_names_are_taken_once(tmp_path: Path, chain: dict[str, Path]) -> None:
    first = make_results(tmp_path, chain, "same", out="first")
    with pytest.raises(UserError, match=r"'same' under cloze-mean is already in"):
        read_all([first, make_results(tmp_path, chain, "same", out="second", skill={"taught": 0.6, "untaught": 0.3})])
    with pytest.raises(UserError, match="another model is named 'same' too"):
        read_all([first, make_results(tmp_path, chain, "same", "adapted", out="third")])
    more = make_results(tmp_path, chain, "same", out="fourth", protocols=["cloze-sum"])
    assert len(read_all([first, more])) == 2, "the same model under another protocol is no second row"


@pytest.mark.parametrize(("setting", "message"), [({"baseline": "bace"}, "did you mean 'base'"),
                                                  ({"protocol": "letters"}, "protocol 'letters' is in none")])
def test_unknown_names_in_settings(tmp_path: Path, chain: dict[str, Path], setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _report(tmp_path / "site", [make_results(tmp_path, chain, "base")], **setting)


def test_shot_sets_count_as_one_question(tmp_path: Path, chain: dict[str, Path]) -> None:
    options = {"protocols": ["letters-3shot", "cloze-mean"], "shot_sets": 3, "questions": 25}
    first = make_results(tmp_path, chain, "first", skill={"": 0.3}, **options)
    second = make_results(tmp_path, chain, "second", skill={"": 0.7}, **options)
    runs = [read_results(folder).runs["letters-3shot"] for folder in (first, second)]
    assert runs[0].shot_sets == 3
    assert len(runs[0].scores) == 25
    assert set(np.round(runs[0].scores * 3, 9)) <= {0, 1, 2, 3}
    rows = compare(first, [second])
    assert [(row["protocol"], row["n"]) for row in rows] == [("letters-3shot", 25), ("cloze-mean", 25)]
    assert rows[0]["difference"] == pytest.approx(runs[1].scores.mean() - runs[0].scores.mean())
    text = render(rows)
    assert "second minus first" in text
    assert "better" in text
    _, data, _ = _report(tmp_path / "site", [first, second], protocol="cloze-mean")
    assert [board["protocol"] for board in data["boards"]] == ["cloze-mean", "letters-3shot"]
    assert data["boards"][0]["finding"]["scope"] == "overall"


def test_holm_over_models_and_the_leader(tmp_path: Path, chain: dict[str, Path]) -> None:
    skills = {"base": 0.3, "good": 0.7, "twin": 0.72, "weak": 0.32}
    folders = [make_results(tmp_path, chain, name, skill={"": skill}, questions=100) for name, skill in skills.items()]
    runs = {result.model.name: result.runs["cloze-mean"] for result in read_all(folders)}
    board = list(runs.values())
    found = pairs(board)
    assert (list(runs)[found.leader()], [list(runs)[place] for place in found.not_beaten()]) == ("twin", ["good"])
    for one, other in ((0, 1), (2, 3)):
        assert (found.gained[one, other], found.gained[other, one]) == discordant(board[one], board[other])
    _, data, page = _report(tmp_path / "site", folders)
    p = {name: paired(runs[name], runs["base"]).p for name in ("good", "twin", "weak")}
    ordered = sorted(p.values())
    by_hand, highest = {}, 0.0
    for name in sorted(p, key=lambda name: p[name]):
        highest = max(highest, min(1.0, p[name] * (3 - ordered.index(p[name]))))
        by_hand[name] = highest
    rows = compare(folders[0], folders[1:])
    assert {row["model"]: row["p_holm"] for row in rows} == pytest.approx(by_hand)
    text = render(rows).splitlines()
    assert ["p (Holm)" in line for line in text[1::3]] == [True] * 3
    assert [line.rsplit(maxsplit=1)[1] for line in text[2::3]] == ["better", "better", text[-1].split()[-1]]
    assert "better" not in text[-1]
    assert found.ranks() == [3, 1, 1, 3]  # the test tells neither pair apart
    assert table_of.ranks_of(folders) == {"cloze-mean": [3, 1, 1, 3]}
    printed = table_of.render(table_of.read(folders), table_of.ranks_of(folders)).splitlines()
    assert printed[0].split() == ["cloze-mean", "questions", *skills]
    assert printed[-1].split() == ["rank", "(paired", "test,", "Holm)", "3", "1", "1", "3"]
    shown = {row["model"]: row["difference"]["p_holm"] for row in data["boards"][0]["rows"] if row["difference"]}
    assert shown == pytest.approx(by_hand, rel=5e-3)
    assert not page.xpath("//u")
    assert "No single best model" in page.text_content()


def test_all_pairs_at_once_are_each_pair(tmp_path: Path, chain: dict[str, Path]) -> None:
    """Of nine models: the table of cells, its differences and errors, with questions that two languages share."""
    skills = {f"m{number}": 0.2 + 0.08 * number for number in range(9)}
    folders = [make_results(tmp_path, chain, name, skill={"": skill}, languages=("en", "pt")) for name, skill in skills.items()]
    board = [run for result in read_all(folders) for run in result.runs.values()]
    found, halves = differences_of_all(board)
    for one, other in ((0, 8), (3, 4), (8, 1)):
        sums, sizes = differences(board[one].scores, board[other].scores, board[one].clusters)
        share = sums.sum() / sizes.sum()
        error = np.sqrt(((sums - sizes * share) ** 2).sum() * len(sums) / (len(sums) - 1)) / sizes.sum()
        assert (found[one, other], halves[one, other]) == pytest.approx((share, 1.959964 * error))
    execute(ReportSettings(results=[str(folder) for folder in folders], questions=0), tmp_path / "site")
    page = lxml_html.fromstring((tmp_path / "site" / "compare.html").read_bytes())
    table, = page.xpath("//table[contains(@class, 'pairs')]")
    names = [cell.text_content().strip() for cell in table.xpath("./thead//th")][1:]
    places = [list(skills).index(name) for name in names]
    for name, place, row in zip(names, places, table.xpath("./tbody/tr"), strict=True):
        assert row[0].text_content().strip() == name
        for other, cell in zip(places, row[1:], strict=True):
            assert cell.text.strip().rstrip("▲▼") == ("–" if place == other else points(found[place, other]))
            assert other == place or cell[0].text.strip() == f"±{100 * halves[place, other]:.1f}"
    assert "biomistral compare RESULTS_A RESULTS_B" in page.text_content()


def test_metrics_of_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 9}\n{"step": 2, "loss": 2.5, "heldout_loss": 2}\n'
                    '{"step": 3, "loss": NaN}\n')
    assert read_metrics(path) == ({1: 3.0, 2: 2.5}, {2: 2.0})
    path.write_text('{"step": 1, "loss": 3.0}\n{"loss": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        read_metrics(path)
    path.write_text("")
    with pytest.raises(UserError, match="no finite loss"):
        read_metrics(path)
    with pytest.raises(UserError, match="no such file"):
        read_metrics(tmp_path / "nowhere")


def test_published_rows_add_up() -> None:
    table = published()
    assert table["tasks"][-1] == "average"
    assert len(table["tasks"]) == 11
    assert len(table["rows"]) == 12
    for row in table["rows"]:
        mean = sum(row["scores"][task] for task in table["tasks"][:-1]) / 10
        assert mean == pytest.approx(row["scores"]["average"], abs=0.15), row["model"]


def test_protocols_in_words() -> None:
    assert protocol_words("letters-3shot") == "Multiple choice, answered by letter, 3 examples"
    assert protocol_words("medconceptsqa-0shot") == "MedConceptsQA, answered by letter, no examples"
    assert protocol_words("chat-generate-0shot") == "Chat, answered in the model's own words, no examples"
    assert protocol_words("cloze-mean").startswith("Cloze")
    assert protocol_words("chat-x") == "chat-x"
