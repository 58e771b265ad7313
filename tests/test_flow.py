"""The whole flow through the command line: the smoke recipe on the embedded model, and every stage killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biomistral.artifact import open_artifact
from biomistral.reporting.lineage import documents, lineage
from tiny import make_model

ROOT = Path(__file__).parent.parent
STAGES = ["base", "questions", "corpus", "adapted", "tuned", "merged/ties", "trial/adapted", "best", "quantised",
          "results/base", "site"]

RECIPE = """\
name: pico
stages:
  base: {kind: model, source: model, dtype: float32}
  questions:
    kind: benchmark
    vocabularies: {ICD10CM: codes.csv}
    levels: [hard]
    limit: 12
    validation: 4
    shots: 1
    teach: {categories: 2, codes: 12}
  corpus:
    kind: corpus
    tokenizer: stage:base
    sources:
      - {input: articles, type: jats, max_tokens: 3000}
      - {input: codes.csv, type: codes, vocabulary: ICD10CM, only: stage:questions, repeat: 2}
    decontaminate: [stage:questions]
    decontaminate_fields: [stem]
    language_from: declared
    min_words: 5
    sequence_length: 64
    heldout: 0.4
  adapted: {kind: pretrain, model: stage:base, corpus: stage:corpus, learning_rate: 1.0e-3, max_steps: 6, batch_sequences: 2,
            checkpoint_steps: 1}
  tuned: {kind: finetune, model: stage:adapted, train: stage:questions, sequence_length: 128, max_steps: 4, batch_sequences: 2,
          checkpoint_steps: 1, output_dtype: float32}
  merged:
    kind: merge
    each: [slerp, ties, dare]
    config: "{merges}/{each}.yaml"
    fit_layers: true
    models: {mistralai/Mistral-7B-Instruct-v0.1: stage:base, BioMistral/BioMistral-7B: stage:adapted}
  trial:
    kind: evaluate
    each: [adapted, merged/ties]
    model: stage:{each}
    benchmark: stage:questions
    split: validation
    protocols: [cloze-mean]
  best:
    kind: select
    candidates: {adapted: stage:adapted, ties: stage:merged/ties}
    results: [stage:trial]
    protocol: cloze-mean
  quantised: {kind: quantize, model: stage:best, calibration: stage:corpus, group_size: 32, samples: 4, sequence_length: 32,
              evaluation_samples: 1}
  results:
    kind: evaluate
    each: [base, adapted, tuned, merged/slerp, merged/ties, merged/dare, quantised]
    model: stage:{each}
    benchmark: stage:questions
    protocols: [cloze-mean, medconceptsqa-0shot]
  site: {kind: report, results: [stage:results], baseline: base, curves: [stage:adapted]}
"""

ARTICLE = """<?xml version="1.0"?><article article-type="research-article" xml:lang="en"><front><journal-meta>
<journal-title-group><journal-title>Pico</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmc">{number}</article-id><title-group><article-title>Article {number}</article-title></title-group>
<pub-date><year>2020</year></pub-date><permissions><license xlink:href="https://creativecommons.org/licenses/{licence}/4.0/"
xmlns:xlink="http://www.w3.org/1999/xlink"><license-p>Open.</license-p></license></permissions></article-meta></front>
<body><sec><title>Results</title><p>{text}</p></sec></body></article>"""
WORDS = ["heart", "lung", "kidney", "liver", "brain", "fever", "cough", "pain", "acute", "chronic", "disease", "aspirin",
         "metformin", "daily", "twice", "report", "of", "in", "and"]


UNLIKE = ("metrics.jsonl", "adapter/adapter_config.json")
"""Files that differ between two runs of one recipe: seconds, and the place of the adapter's base model."""


def sentence(number: int, length: int) -> str:
    """Words that differ from article to article, without a generator."""
    return " ".join(WORDS[(number * 7 + i * i * 3 + i * number) % len(WORDS)] + (f"{i}" if i % 5 == 0 else "")
                    for i in range(length)) + "."


def write_inputs(folder: Path) -> Path:
    """A pico model, six categories of codes, eight articles (one not free), and the recipe."""
    make_model(folder / "model", hidden=64)
    (folder / "articles").mkdir()
    for number in range(8):
        licence = "by-nc" if number == 7 else "by"
        text = ARTICLE.format(number=100 + number, licence=licence, text=sentence(number, 140))
        (folder / "articles" / f"{number}.xml").write_text(text, encoding="utf-8")
    lines = ["code,parent_code,name"]
    for category in range(6):
        lines.append(f"A{category:02d},,Fever of kind {category}")
        lines += [f"A{category:02d}.{leaf},A{category:02d},{WORDS[category]} {WORDS[leaf + 6]} pain" for leaf in range(6)]
    (folder / "codes.csv").write_text("\n".join(lines) + "\n")
    recipe = folder / "pico.yaml"
    recipe.write_text(RECIPE.replace("{merges}", str(ROOT / "recipes" / "merges")))
    return recipe


def start(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "biomistral.cli", "run", str(recipe), "--out", str(out), "--workers", "1", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err[-3000:]
    return out


def kill_in(recipe: Path, out: Path, stage: str, delay: float) -> None:
    """Run until the stage begins, wait a moment, and kill without warning."""
    child = start(recipe, out)
    assert child.stderr is not None
    for line in child.stderr:
        if f"] {stage} (" in line and "reused" not in line:
            time.sleep(delay)
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()


def numbers(out: Path) -> dict[str, object]:
    """Everything a run made that must not depend on how often it was cut off: all but seconds."""
    found: dict[str, object] = {}
    for manifest in sorted(out.rglob("manifest.json")):
        artifact, name = open_artifact(manifest.parent), manifest.parent.relative_to(out).as_posix()
        if artifact.kind == "evaluate":
            found[name] = pq.read_table(artifact.path / "answers.parquet").drop_columns(["seconds"]).to_pydict()
        elif artifact.kind not in ("report",):
            found[name] = {file: entry["blake3"] for file, entry in artifact.manifest["files"].items() if file not in UNLIKE}
        found[name + " key"] = artifact.key
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pico recipe, run once without interruption."""
    folder = tmp_path_factory.mktemp("flow")
    recipe = write_inputs(folder)
    finish(start(recipe, folder / "whole"))
    return recipe, folder / "whole"


def test_killed_in_every_stage_it_goes_on_and_ends_in_the_same_numbers(whole: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, reference = whole
    for number, stage in enumerate(STAGES):
        kill_in(recipe, tmp_path / "killed", stage, 0.05 + 0.11 * (number % 5))
    rows = json.loads(finish(start(recipe, tmp_path / "killed", "--json")))
    assert {row["state"] for row in rows} <= {"made", "reused"}
    assert numbers(tmp_path / "killed") == numbers(reference)
    assert not list((tmp_path / "killed").rglob(".*.partial"))


def test_a_second_run_reuses_everything(whole: tuple[Path, Path]) -> None:
    recipe, reference = whole
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("manifest.json")}
    rows = json.loads(finish(start(recipe, reference, "--json")))
    assert {row["state"] for row in rows} == {"reused"}
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("manifest.json")} == before


def test_a_leaderboard_row_leads_back_to_articles_and_licences(whole: tuple[Path, Path]) -> None:
    _, reference = whole
    site = lineage(reference / "site")
    assert {corpus.key for corpus in site.corpora()} == {open_artifact(reference / "corpus").key}
    row = lineage(reference / "results" / "quantised")
    corpus = row.corpora()[0]
    listed = documents(corpus)
    assert listed is not None
    assert {entry["licence"] for entry in listed} == {"CC-BY-4.0", "PD-US-Gov"}
    assert "PMC107" not in {entry["id"] for entry in listed}  # by-nc: refused
    assert "PMC100" in {entry["id"] for entry in listed}


def test_the_smoke_recipe_runs_end_to_end(tmp_path: Path) -> None:
    """The quickstart itself, on the embedded model, in its smallest profile."""
    child = start(ROOT / "recipes" / "quickstart.yaml", tmp_path / "smoke", "--profile", "smoke")
    out = finish(child)
    page = tmp_path / "smoke" / "site" / "index.html"
    assert page.as_uri() in out
    assert "taught questions (cloze-mean)" in out
    shown = json.loads((tmp_path / "smoke" / "site" / "results.json").read_text())
    assert shown
    for name in ("base", "adapted", "tuned", "merged/slerp", "merged/ties", "merged/dare", "quantised"):
        results = json.loads((tmp_path / "smoke" / "results" / name / "results.json").read_text())
        taught = results["protocols"]["cloze-mean"]["groups"]["taught"]
        assert 0 <= taught["interval"][0] <= taught["accuracy"] <= taught["interval"][1] <= 1
        assert f"{100 * taught['accuracy']:.1f}" in page.read_text(encoding="utf-8")
