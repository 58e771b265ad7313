"""Read every source through the screen into parts on the disk, in parallel, each unit once."""

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.corpus.code_articles import PUBLIC_DOMAIN, code_articles
from biomistral.corpus.licences import US_GOVERNMENT, identify
from biomistral.corpus.screen import CANDIDATE_SCHEMA, Draft, Rules, drafts_of, screen
from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources import Item, Unit, batches, items_of
from biomistral.progress import track

_rules: Rules | None = None  # of a worker process, set once when it starts


@dataclass(frozen=True)
class Task:
    """One batch for a worker: raw items of a source, or code articles that are drafts already."""

    source: str
    licence: str | None
    items: list[Item]
    drafts: list[Draft]


Apply = Callable[[Iterable[Task]], Iterator[pa.Table]]


def _start(rules: Rules) -> None:
    global _rules
    _rules = rules
    pa.set_cpu_count(1)


def _run(task: Task) -> pa.Table:
    assert _rules is not None
    return screen(task.drafts or drafts_of(task.items, task.source, task.licence), _rules)


@contextmanager
def workers(rules: Rules, count: int) -> Iterator[Apply]:
    """A function that screens batches in order, on ``count`` processes (0: one a core; 1: in this one)."""
    count = count or os.cpu_count() or 1
    if count == 1:
        yield lambda tasks: (screen(t.drafts or drafts_of(t.items, t.source, t.licence), rules) for t in tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork could copy a lock that a thread of torch or Arrow holds
    with ProcessPoolExecutor(count, context, _start, (rules,)) as pool:
        yield lambda tasks: _in_order(pool, tasks, 3 * count)


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[pa.Table]:
    """Results in the order of the tasks, never more than ``ahead`` of them in memory."""
    pending: deque[Future[pa.Table]] = deque()
    for task in tasks:
        pending.append(pool.submit(_run, task))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def gather(units: list[Unit], sources: list[SourceSettings], only: dict[int, Path], folder: Path, apply: Apply,
           root_seed: int) -> list[Path]:
    """Write one part (Parquet, `screen.CANDIDATE_SCHEMA`) a unit; a part that is there is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, unit in enumerate(track(units, "reading sources")):
        part = folder / f"part-{number:05d}.parquet"
        parts.append(part)
        if not part.exists():
            source = sources[unit.source]
            tasks = _tasks(unit, source, only.get(unit.source), root_seed)
            _write(part, apply(tasks))
    return parts


def _write(part: Path, tables: Iterable[pa.Table]) -> None:
    temporary = part.with_suffix(".tmp")
    with pq.ParquetWriter(temporary, CANDIDATE_SCHEMA, compression="zstd", compression_level=1) as writer:
        for table in tables:
            writer.write_table(table)
    temporary.replace(part)


def _tasks(unit: Unit, source: SourceSettings, only: Path | None, root_seed: int) -> Iterator[Task]:
    if unit.kind != "codes":
        for batch in batches(items_of(unit)):
            yield Task(unit.name, source.licence, batch, [])
        return
    drafts: list[Draft] = []
    for draft in _code_drafts(unit, source, only, root_seed):
        drafts.append(draft)
        if len(drafts) == 200:
            yield Task(unit.name, None, [], drafts)
            drafts = []
    if drafts:
        yield Task(unit.name, None, [], drafts)


def _code_drafts(unit: Unit, source: SourceSettings, only: Path | None, root_seed: int) -> Iterator[Draft]:
    vocabulary = source.vocabulary or ""
    licence, evidence = (US_GOVERNMENT, "") if vocabulary in PUBLIC_DOMAIN else identify([source.licence or ""])
    for article in code_articles(vocabulary, unit.files[0], only, source.repeat, root_seed):
        yield Draft(article.id, unit.name, article.text, article.title, licence, "en", ours=True, evidence=evidence)


def clean(folder: Path) -> None:
    """Remove the working files once the corpus stands."""
    shutil.rmtree(folder, ignore_errors=True)
