"""A data set's card: of a corpus, of a benchmark, of a translated one."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomistral.cards.licences import RULE, Verdict
from biomistral.cards.origin import Origin
from biomistral.errors import UserError
from biomistral.reporting.lineage import Node

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

    from biomistral.cards.card import Subject, Wanted

_SPLITS = ("dev", "train", "validation", "test")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
          (100_000_000, "10M<n<100M"))


def build(subject: "Subject", node: Node, past: Origin, verdict: Verdict,
          wanted: "Wanted") -> tuple[str, dict[str, Any], "DatasetCardData"]:
    """Template, what it is given, and metadata.

    Raises:
        UserError: a file of the folder cannot be read.
    """
    title = wanted.repo.rpartition("/")[2] or node.path.name
    common = {"title": title, "verdict": verdict, "rule": RULE, "parts": [part for part in past.parts if part.count > 0]}
    if node.kind == "corpus":
        view = {**common, **_corpus(node, past)}
        return "corpus.md.j2", view, _corpus_data(title, verdict, past, view["documents"])
    view = {**common, "name": node.path.name, **_benchmark(subject.folder, node)}
    return "benchmark.md.j2", view, _benchmark_data(title, verdict, view, node)


def size_category(rows: int) -> str:
    """The hub's word for so many rows."""
    return next((name for most, name in _SIZES if rows < most), "100M<n<1B")


def _corpus(node: Node, past: Origin) -> dict[str, Any]:
    counts = node.counts
    against = node.settings.get("decontaminate") or []
    sources = [{"name": name, "documents": one.get("documents", 0), "words": one.get("words", 0)}
               for name, one in (counts.get("sources") or {}).items()]
    told = (f"Searched for the questions of {', '.join(Path(name).name for name in against)}; documents that hold one were "
            f"{'dropped' if node.settings.get('decontaminate_policy') == 'drop' else 'cut there'} "
            "(`decontamination.parquet` names each)." if against else "No benchmark's questions were looked for in it.")
    return {"documents": counts.get("documents", 0), "words": counts.get("words", 0), "tokens": counts.get("tokens", 0),
            "sources": sources, "languages": ", ".join(past.languages), "refused": counts.get("refused") or {"nothing": 0},
            "decontamination": told}


def _corpus_data(title: str, verdict: Verdict, past: Origin, documents: int) -> "DatasetCardData":
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        language=past.languages or None, license=verdict.id, size_categories=[size_category(documents)], pretty_name=title,
        task_categories=["text-generation"], tags=["biomistral", "medical", "research-only"],
        multilinguality="multilingual" if len(past.languages) > 1 else "monolingual",
        configs=[{"config_name": "documents", "data_files": "documents.parquet"}])


def _benchmark(folder: Path, node: Node) -> dict[str, Any]:
    import pyarrow.parquet as pq

    about = _read(folder / "benchmark.json")
    rows = pq.read_table(folder / "questions.parquet", columns=["task", "split", "language"]).to_pylist()
    counted = Counter((row["task"], row["split"]) for row in rows)
    splits = [split for split in _SPLITS if any(found == split for _, found in counted)]
    tasks = [{"name": task, "splits": {split: counted[task, split] for split in splits},
              "licence": one.get("licence", "not stated"), "source": Path(str(one.get("source", ""))).name or "not stated"}
             for task, one in about.get("tasks", {}).items()]
    languages = [name for name, _ in Counter(row["language"] for row in rows).most_common()]
    return {"questions": len(rows), "splits": splits, "tasks": tasks, "languages": ", ".join(languages),
            "translation": _translation(folder, node) if node.kind == "translate" else None}


def _translation(folder: Path, node: Node) -> dict[str, Any]:
    import pyarrow.parquet as pq

    told = node.facts.get("translation") or {}
    engines = [str(one.get("model") or one.get("engine")) for one in told.get("engines") or []]
    apart = folder / "needs_review.parquet"
    review = pq.ParquetFile(apart).metadata.num_rows if apart.is_file() else 0
    sound = sum(one["sound"] for one in (told.get("passed") or {}).values())
    return {"words": f"from {told.get('from', '?')} to {told.get('to', '?')}" + (f" by {', '.join(engines)}" if engines else ""),
            "sound": sound, "review": review}


def _benchmark_data(title: str, verdict: Verdict, view: dict[str, Any], node: Node) -> "DatasetCardData":
    from huggingface_hub import DatasetCardData

    languages = view["languages"].split(", ")
    translated = node.kind == "translate"
    return DatasetCardData(
        language=languages, license=verdict.id, size_categories=[size_category(view["questions"])], pretty_name=title,
        task_categories=["question-answering"], task_ids=["multiple-choice-qa"],
        language_creators=["machine-generated"] if translated else None,
        multilinguality="translation" if translated else "multilingual" if len(languages) > 1 else "monolingual",
        tags=["biomistral", "medical", "research-only", "multiple-choice"],
        configs=[{"config_name": "default", "data_files": "questions.parquet"}])


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the benchmark again") from error
