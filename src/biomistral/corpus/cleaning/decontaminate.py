"""What becomes of a document that holds a benchmark's questions, and the account of what that costs.

The default 13 words are those of GPT-3 (Brown et al. 2020, appendix C); `question_index` finds them.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomistral.corpus.cleaning.question_index import FIELDS, Match, QuestionIndex, build_index, open_index
from biomistral.corpus.cleaning.shingles import Words
from biomistral.corpus.ledger import Ledger
from biomistral.files import write_json

__all__ = ["LOSS", "MATCH", "Match", "QuestionIndex", "build_index", "cut", "losses", "open_index", "span", "write_report"]

MATCH = pa.struct([("question", pa.string()), ("task", pa.string()), ("field", pa.string()), ("span", pa.string())])
LOSS = pa.struct([("task", pa.string()), ("words", pa.int32()), ("alone", pa.int32())])
MATCH_SCHEMA = pa.schema([("document", pa.string()), *MATCH])

ALL = ""
"""The name under which losses to all tasks together stand."""

_MAX_SPAN = 300
_SPANS = 20
_COUNTED_SPANS = 200_000


def span(text: str, match: Match) -> str:
    """The words that matched, shortened to 300 characters."""
    return " ".join(text[match.start:min(match.end, match.start + _MAX_SPAN)].split())


def cut(text: str, matches: Sequence[Match]) -> str:
    """The text without the paragraphs that hold a match, or a part of one."""
    return "\n\n".join(text[start:end] for start, end, tasks in _paragraphs(text, matches) if not tasks)


def _paragraphs(text: str, matches: Sequence[Match]) -> Iterator[tuple[int, int, set[str]]]:
    """Start, end and the tasks that match, of every paragraph."""
    blocks = [0]
    for paragraph in text.split("\n\n"):
        blocks.append(blocks[-1] + len(paragraph) + 2)
    tasks: defaultdict[int, set[str]] = defaultdict(set)
    for match in matches:
        number = bisect_left(blocks, match.start + 1) - 1
        while number + 1 < len(blocks) and blocks[number] < match.end:
            tasks[number].add(match.task)
            number += 1
    for number, (start, after) in enumerate(pairwise(blocks)):
        yield start, after - 2, tasks[number]


def losses(text: str, words: Words, matches: Sequence[Match], dropped: bool) -> list[dict[str, Any]]:
    """Words that go, to each task and to all: ``words`` hold one of its questions, ``alone`` no other task's (rows of `LOSS`)."""
    blocks = [(0, len(text), {match.task for match in matches})] if dropped else _paragraphs(text, matches)
    lost: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for start, end, tasks in blocks:
        if tasks:
            count = int(np.searchsorted(words.starts, end) - np.searchsorted(words.starts, start))
            lost.update(dict.fromkeys((ALL, *tasks), count))
            alone.update(dict.fromkeys((ALL, *tasks) if len(tasks) == 1 else (ALL,), count))
    return [{"task": task, "words": lost[task], "alone": alone[task]} for task in sorted(lost)]


# ---- the account ----------------------------------------------------------------------------------------------------


@dataclass
class _Account:
    """What was found of one task, or of all."""

    questions: set[str] = field(default_factory=set)
    by_field: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in FIELDS})
    counts: Counter[str] = field(default_factory=Counter)

    def row(self, asked: int, searched: int) -> dict[str, int]:
        counted = ("documents", "dropped", "cut", "words_lost", "words_lost_alone")
        return {"questions": asked, "too_short": asked - searched, "found": len(self.questions),
                **{f"by_{name}": len(found) for name, found in self.by_field.items()},
                **{name: self.counts[name] for name in counted}}


def write_report(folder: Path, ledger: Ledger, index: QuestionIndex | None) -> None:
    """Write ``decontamination.parquet``, one row a match, and with an index ``decontamination.json``, a row a task.

    For each task, and for all: ``questions``; ``too_short`` of them to be looked for; ``found``, and by which field;
    ``documents`` that hold one, ``dropped`` and ``cut``; ``words_lost``, and those lost to no other task. ``spans``
    are the runs in most documents: what is no question there is best named in ``decontaminate_except``.
    """
    accounts: defaultdict[str, _Account] = defaultdict(_Account)
    spans: Counter[str] = Counter()
    temporary = folder / ".decontamination.parquet.tmp"
    with pq.ParquetWriter(temporary, MATCH_SCHEMA, compression="zstd") as writer:
        for table in _matched(ledger):
            rows = table.to_pylist()
            found = [{"document": row["id"], **match} for row in rows for match in row["matches"]]
            writer.write_table(pa.Table.from_pylist(found, schema=MATCH_SCHEMA))
            _add(accounts, spans, rows)
    temporary.replace(folder / "decontamination.parquet")
    if index is None:
        return
    asked, searched = Counter(dict(zip(index.tasks, index.asked, strict=True))), index.searched()
    most = sorted(spans.items(), key=lambda item: (-item[1], item[0]))[:_SPANS]
    write_json(folder / "decontamination.json", {
        **accounts[ALL].row(asked.total(), searched.total()),
        "words_kept": int(ledger.words.sum()),
        "tasks": {task: accounts[task].row(asked[task], searched[task]) for task in sorted(asked)},
        "spans": [{"span": text, "documents": count} for text, count in most]})


def _matched(ledger: Ledger) -> Iterator[pa.Table]:
    """The documents that hold a question, a group of rows at a time."""
    for _, table in ledger.groups(np.ones(len(ledger), np.bool_), ["id", "matches", "losses", "reason"]):
        table = table.filter(pc.greater(pc.list_value_length(table.column("matches")), 0))
        if len(table):
            yield table


def _add(accounts: defaultdict[str, _Account], spans: Counter[str], rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        fate = "dropped" if row["reason"] is not None else "cut"
        for match in row["matches"]:
            for task in (ALL, match["task"]):
                name = match["question"] if task else f"{match['task']} {match['question']}"
                accounts[task].questions.add(name)
                accounts[task].by_field[match["field"]].add(name)
        for loss in row["losses"]:
            accounts[loss["task"]].counts.update(
                {"documents": 1, fate: 1, "words_lost": loss["words"], "words_lost_alone": loss["alone"]})
        spans.update({match["span"].casefold() for match in row["matches"]})
    if len(spans) > _COUNTED_SPANS:
        for text in [text for text, count in spans.items() if count == 1]:
            del spans[text]
