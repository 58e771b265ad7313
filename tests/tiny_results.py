"""Tiny chains for the report's tests: a plain file, a corpus, a base model, an adapted one, and their results folders."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from biomistral.artifact import Workspace, input_key, produce
from biomistral.evaluation.languages import by_language
from biomistral.files import write_json, write_text
from biomistral.recipe import Input, StageSettings, canonical_hash
from biomistral.records import ANSWER_SCHEMA, DOCUMENT_SCHEMA, write_table
from biomistral.seeds import seed
from biomistral.statistics import wilson

LETTERS = "ABCD"


class TinyCorpus(StageSettings):
    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_results:write_corpus"
    sources: list[Input]
    articles: int = 3


class TinyModel(StageSettings):
    kind: ClassVar[str] = "model"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_results:write_model"
    source: Input


class TinyPretrain(StageSettings):
    kind: ClassVar[str] = "pretrain"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_results:write_pretrained"
    model: Input
    corpus: Input
    steps: int = 40


class TinyResults(StageSettings):
    """Answers right with a probability per group; the draw of a question is shared by all models, as difficulty is."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "tiny_results:write_results"
    model: Input
    benchmark: Input
    name: str
    skill: dict[str, float]
    protocols: tuple[str, ...] = ("cloze-mean",)
    questions: int = 40
    shot_sets: int = 1
    limit: int = 0
    letter: str = ""
    mass: float = 0.9
    tasks: int = 1
    languages: tuple[str, ...] = ()
    """None: English, without scores by language."""


def write_corpus(work: Workspace) -> None:
    rows = [{"id": f"PMC{number}", "title": f"Über <i>article</i> {number}", "text": "text", "year": 2020, "journal": "J",
             "licence": "CC0-1.0" if number == 0 else "CC-BY-4.0", "language": "en", "source": "plos", "sections": [],
             "authors": ["A"], "url": ""} for number in range(work.settings.articles)]
    work.counts["documents"] = write_table(work.path / "documents.parquet", rows, DOCUMENT_SCHEMA)
    write_text(work.path / "ATTRIBUTION.tsv", "id\ttitle\n" + "".join(f"{row['id']}\t{row['title']}\n" for row in rows))
    work.licences |= {"CC-BY-4.0": len(rows) - 1, "CC0-1.0": 1}


def write_model(work: Workspace) -> None:
    write_text(work.path / "config.json", work.locate(work.settings.source).read_text())


def write_pretrained(work: Workspace) -> None:
    write_text(work.path / "config.json", "{}")
    lines = [json.dumps({"step": step, "loss": 3 / (1 + step / 10), "tokens": 64}) for step in range(1, work.settings.steps + 1)]
    lines.append(json.dumps({"step": work.settings.steps, "heldout_loss": 1.5, "heldout_bits_per_byte": 0.9}))
    write_text(work.path / "metrics.jsonl", "\n".join(lines) + "\n")


def _luck(*names: str | int) -> float:
    return seed(0, *names) / 2**63


def answer_rows(settings: TinyResults, protocol: str) -> list[dict[str, Any]]:
    rows = []
    for (group, skill), language in itertools.product(settings.skill.items(), settings.languages or ("en",)):
        for number in range(settings.questions):
            answer = LETTERS[seed(1, group, number) % 4]
            for shot in range(settings.shot_sets):
                right = _luck(group, number, shot, *([language] if language != "en" else [])) < skill
                chosen = settings.letter or (answer if right else LETTERS[(LETTERS.index(answer) + 1) % 4])
                best = 0.4 + 0.5 * _luck("confidence", settings.name, group, number)
                rows.append({
                    "model": settings.name, "protocol": protocol, "task": f"task{number % settings.tasks}",
                    "question": f"{group}-{number}", "language": language, "shot_set": shot, "permutation": 0,
                    "group": group, "options": 4,
                    "answer": answer, "chosen": chosen, "right": chosen == answer, "open_chosen": chosen,
                    "open_right": chosen == answer,
                    "probabilities": [best if letter == chosen else (1 - best) / 3 for letter in LETTERS],
                    "letter_mass": None if protocol.startswith("cloze") else settings.mass, "prompt_hash": "p",
                    "prompt_tokens": 9, "seconds": 0.01})
    return rows


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    questions = len({(row["language"], row["question"]) for row in rows})
    accuracy = sum(row["right"] for row in rows) / len(rows)
    return {"n": questions, "right": accuracy * questions, "accuracy": accuracy, "spread": 0.0, "open_accuracy": None,
            "interval": list(wilson(accuracy * questions, questions)), "letter_mass": rows[0]["letter_mass"]}


def _scores(rows: list[dict[str, Any]], field: str) -> dict[str, Any]:
    names = dict.fromkeys(row[field] for row in rows)
    return {name: score([row for row in rows if row[field] == name]) for name in names if name}


def _bins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bins = []
    for low in range(10):
        inside = [row for row in rows if low / 10 < max(row["probabilities"]) <= (low + 1) / 10]
        bins.append({"low": low / 10, "high": (low + 1) / 10, "count": len(inside),
                     "confidence": sum(max(row["probabilities"]) for row in inside) / len(inside) if inside else None,
                     "accuracy": sum(row["right"] for row in inside) / len(inside) if inside else None})
    return bins


def summary(settings: TinyResults, protocol: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    definition = {"prompt": f"<b>{protocol}</b>\nQuestion: {{stem}}\nAnswer:", "extraction": "likeliest option"}
    tasks, always = _scores(rows, "task"), sum(row["answer"] == settings.letter for row in rows) / len(rows)
    return {"definition": definition, "definition_hash": canonical_hash(definition), "tasks": tasks,
            "groups": _scores(rows, "group"), "overall": score(rows),
            "languages": by_language(rows) if settings.languages else {},
            "average": sum(one["accuracy"] for one in tasks.values()) / len(tasks),
            "degenerate": {"letter": settings.letter, "share": 1.0, "score_of_always": always} if settings.letter else None,
            "calibration": {"ece": 12.34, "adaptive_ece": 11.0, "brier": 0.678, "paper_ece_5": None, "bins": _bins(rows)},
            "seconds": 1.5, "questions_per_second": 53.0}


def write_results(work: Workspace) -> None:
    settings: TinyResults = work.settings
    found = {protocol: answer_rows(settings, protocol) for protocol in settings.protocols}
    write_table(work.path / "answers.parquet", [row for rows in found.values() for row in rows], ANSWER_SCHEMA)
    write_json(work.path / "results.json", {
        "model": {"name": settings.name, "key": input_key(work.locate(settings.model)), "parameters": 135_000_000,
                  "dtype": "bfloat16", "quantization": None},
        "benchmark": {"name": "tiny", "key": input_key(work.locate(settings.benchmark)), "split": "test",
                      "limit": settings.limit or None},
        "protocols": {protocol: summary(settings, protocol, rows) for protocol, rows in found.items()}})


def made(settings: StageSettings, out: Path) -> Path:
    """Make a tiny artifact whose inputs are local paths."""
    from biomistral.artifact import inputs_of

    return produce(settings, out, {str(name): Path(name) for name in inputs_of(settings)}).path


def make_chain(folder: Path) -> dict[str, Path]:
    """Plain files, a corpus, a base and an adapted model, and a benchmark file, all under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("articles.xml", "weights.gguf", "questions.jsonl"):
        (folder / name).write_text(json.dumps(name))
    corpus = made(TinyCorpus(sources=[str(folder / "articles.xml")]), folder / "corpus")
    base = made(TinyModel(source=str(folder / "weights.gguf")), folder / "base")
    adapted = made(TinyPretrain(model=str(base), corpus=str(corpus)), folder / "adapted")
    return {"corpus": corpus, "base": base, "adapted": adapted, "benchmark": folder / "questions.jsonl"}


def make_results(folder: Path, chain: dict[str, Path], name: str, model: str = "base", out: str = "", **options: Any) -> Path:
    """A results folder; ``options`` are those of `TinyResults`."""
    options.setdefault("skill", {"taught": 0.3, "untaught": 0.3})
    settings = TinyResults(model=str(chain[model]), benchmark=str(chain["benchmark"]), name=name, **options)
    return made(settings, folder / (out or f"results-{canonical_hash(name)[:6]}"))


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
