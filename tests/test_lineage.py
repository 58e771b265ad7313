"""Lineage: every leaderboard row is followed back to article ids and licences, and changes are noticed."""

import json
import shutil
from pathlib import Path

import pytest

from biomistral.errors import UserError
from biomistral.reporting.lineage import as_data, documents, lineage, missing, problems, render, rows_of
from biomistral.reporting.settings import ReportSettings
from biomistral.run import execute
from tiny_results import make_chain, make_results


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "run"
    chain = make_chain(folder)
    base = make_results(folder, chain, "base", out="results-base")
    adapted = make_results(folder, chain, "new", "adapted", out="results-new")
    execute(ReportSettings(results=[str(base), str(adapted)]), folder / "site")
    return {**chain, "results": adapted, "site": folder / "site", "folder": folder}


def test_chain_reaches_the_plain_files(run: dict[str, Path]) -> None:
    node = lineage(run["results"])
    assert [(part.kind, Path(part.name).name) for part in node.walk()] == [
        ("evaluate", "results-new"), ("pretrain", "adapted"), ("file", "questions.jsonl"), ("model", "base"),
        ("corpus", "corpus"), ("file", "weights.gguf"), ("file", "articles.xml")]
    (corpus,) = node.corpora()
    assert corpus.licences == {"CC-BY-4.0": 2, "CC0-1.0": 1}
    assert corpus.counts == {"documents": 3}
    assert json.loads(json.dumps(as_data(node)))["inputs"][0]["inputs"][1]["kind"] == "corpus"
    assert problems(node) == []
    assert missing(node) == []


def test_text_lists_licences_and_articles(run: dict[str, Path]) -> None:
    text = render(lineage(run["results"]), with_documents=True, with_check=True)
    assert "licences: CC-BY-4.0 2, CC0-1.0 1" in text
    assert "3 articles of corpus" in text
    assert "  PMC0\tCC0-1.0\tÜber <i>article</i> 0" in text
    assert text.endswith("every file that is still there is as it was made")
    assert as_data(lineage(run["results"]), True)["inputs"][0]["inputs"][1]["documents"][1]["licence"] == "CC-BY-4.0"


def test_site_gives_one_chain_a_row(run: dict[str, Path]) -> None:
    node = lineage(run["site"])
    assert [Path(row.name).name for row in rows_of(node)] == ["results-base", "results-new"]
    base, adapted = rows_of(node)
    assert base.corpora() == []
    assert [corpus.kind for corpus in adapted.corpora()] == ["corpus"]
    assert render(node).count("evaluate ") == 2


def test_changes_are_noticed(run: dict[str, Path]) -> None:
    (run["adapted"] / "config.json").write_text("{ }")
    (run["folder"] / "articles.xml").write_text("other")
    found = problems(lineage(run["results"]))
    assert len(found) == 2
    assert "adapted/config.json: differs" in found[0]
    assert "articles.xml: differs" in found[1]


def test_a_manifest_made_to_fit_is_noticed(run: dict[str, Path]) -> None:
    manifest = json.loads((run["adapted"] / "manifest.json").read_text())
    (run["adapted"] / "config.json").unlink()
    del manifest["files"]["config.json"]
    (run["adapted"] / "manifest.json").write_text(json.dumps(manifest))
    assert "not those that were used" in problems(lineage(run["results"]))[0]


def test_moved_folders_are_found_beside(run: dict[str, Path], tmp_path: Path) -> None:
    shutil.move(run["folder"], tmp_path / "elsewhere")
    node = lineage(tmp_path / "elsewhere" / "results-new")
    (corpus,) = node.corpora()
    assert corpus.path == tmp_path / "elsewhere" / "corpus"
    assert len(documents(corpus) or []) == 3


def test_a_corpus_that_is_gone_is_said(run: dict[str, Path]) -> None:
    shutil.rmtree(run["corpus"])
    node = lineage(run["results"])
    assert documents(node.corpora()[0]) is None
    text = render(node, with_documents=True, with_check=True)
    assert f"were listed in {run['corpus'] / 'documents.parquet'}, which is no longer there" in text
    assert f"{run['corpus']}: no longer there, not checked" in text


def test_another_corpus_in_its_place_is_refused(run: dict[str, Path]) -> None:
    shutil.rmtree(run["corpus"])
    shutil.copytree(run["base"], run["corpus"])
    with pytest.raises(UserError, match="holds another model now"):
        documents(lineage(run["results"]).corpora()[0])
    assert "holds another model now" in problems(lineage(run["results"]))[0]


def test_unfinished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished artifact"):
        lineage(tmp_path)
