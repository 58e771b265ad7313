"""The files of a benchmark folder (docs/formats.md), whatever its questions come from."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from biomistral.artifact import Workspace
from biomistral.benchmarks.published.draft import Refusal
from biomistral.errors import UserError
from biomistral.files import write_json, write_text
from biomistral.progress import log
from biomistral.records import Question, write_questions

SPLITS = ("train", "dev", "validation", "test")


@dataclass
class Suite:
    """A benchmark on its way to disk: its questions, and per task where they are from and how many there could be."""

    questions: Iterator[Question]
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    taught: dict[str, Any] | None = None
    train: Iterator[dict[str, str]] | None = None
    nothing: str = "the files hold no test question"
    """What is said where there is no test question."""


def sound(work: Workspace, items: Iterable[Question | Refusal]) -> Iterator[Question]:
    """The questions; rows that give none are counted, and kept in ``refused.jsonl`` with their reason."""
    reasons: Counter[str] = Counter()
    refused = []
    for item in items:
        if isinstance(item, Refusal):
            refused.append(json.dumps(asdict(item), ensure_ascii=False))
            reasons[item.reason] += 1
        else:
            yield item
    work.facts["refused"] = dict(reasons)
    if refused:
        log.warning("rows that give no question: %d; refused.jsonl says why", len(refused))
        write_text(work.path / "refused.jsonl", "\n".join(refused) + "\n")


def write(work: Workspace, name: str, suite: Suite) -> None:
    tally: Counter[tuple[str, str]] = Counter()
    groups: Counter[str] = Counter()

    def counted() -> Iterator[Question]:
        for question in suite.questions:
            tally[question.task, question.split] += 1
            if question.split == "test" and "group" in question.meta:
                groups[question.meta["group"]] += 1
            yield question

    total = write_questions(work.path / "questions.parquet", counted())
    if not any(split == "test" for _, split in tally):
        (work.path / "questions.parquet").unlink()
        reasons = [reason for reason, _ in Counter(work.facts.get("refused", {})).most_common(1)]
        raise UserError("; rows are refused, most of them because: ".join([suite.nothing, *reasons]))
    tasks: dict[str, dict[str, Any]] = {}
    for task, about in suite.tasks.items():
        splits = {split: tally[task, split] for split in SPLITS if split != "train" or tally[task, split]}
        work.counts[task] = splits | ({"available": about["available"]} if "available" in about else {})
        if not splits["test"]:
            log.warning("%s: no test question%s; left out", task,
                        f" ({about['available']} codes can be asked about)" if "available" in about else "")
        else:
            tasks[task] = {**splits, "licence": about["licence"], "source": about["source"]}
    work.counts |= {"questions": total, **{f"test_{group}": count for group, count in sorted(groups.items())}}
    if suite.taught is not None:
        write_json(work.path / "taught.json", suite.taught)
    if suite.train is not None:
        lines = [json.dumps(row, ensure_ascii=False) for row in suite.train]
        write_text(work.path / "train.jsonl", "\n".join(lines) + "\n")
        work.counts["train"] = len(lines)
    write_json(work.path / "benchmark.json", {"name": name, "tasks": tasks})
