"""Carry out a plan: tensor by tensor, chunk by chunk, in memory that a chunk bounds and no tensor does."""

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from biomistral.memory import keep_freed_memory
from biomistral.merging.account import Account
from biomistral.merging.blocks import chunks, whole_units
from biomistral.merging.catalogue import DEFAULT, Variants
from biomistral.merging.checkpoint import Reader
from biomistral.merging.engine import Operator, operator_for, ready
from biomistral.merging.plan import CHUNK, Plan
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.survey import find_thresholds
from biomistral.merging.views import read_inputs
from biomistral.merging.writer import Journal, Layout, Writer, lay_out
from biomistral.progress import bar

_JOURNAL = ".journal.jsonl"
_MOST_WORKERS = 8
"""Unless told otherwise: a chunk takes 1 ms of arithmetic and 0.1 ms of Python, which only one thread runs at a time."""


def stream(plan: Plan, folder: Path, seed: int = 0, variants: Variants = DEFAULT, max_shard_bytes: int = 5_000_000_000,
           chunk: int = CHUNK, workers: int = 1, device: str = "cpu") -> tuple[Layout, list[dict[str, Any]]]:
    """Write the merged weights into ``folder``; work cut off there earlier goes on at the next tensor.

    Returns the layout of the files and one row a tensor: its drift from each input and what the method reports.
    ``workers`` threads (0: one a core, up to 8) take a tensor each, so that some read or write while others compute.
    Neither they nor ``chunk`` (elements, rounded up to whole blocks) nor ``device`` nor a resume changes a bit.

    Raises:
        UserError: a value that is not finite, or an input that changed while it was read.
    """
    chunk = whole_units(chunk)
    layout = lay_out(plan.tensors, max_shard_bytes)
    journal = Journal(folder / _JOURNAL, layout)
    writer = Writer(folder, layout, fresh=not journal.done)
    readers = _Readers(max(len(tensor.inputs) for tensor in plan.tensors))
    keep_freed_memory()
    try:
        for name in journal.done:
            writer.finish(name)
        with ready(plan.tensors, variants, device), bar("merging tensors", len(plan.tensors)) as progress:
            thresholds = find_thresholds(plan, variants, readers.mine(), chunk)

            def merge(tensor: PlannedTensor) -> dict[str, Any]:
                operator = operator_for(tensor, seed, variants, thresholds, device)
                return _merge_tensor(tensor, readers.mine(), writer, operator, chunk)

            progress.advance(len(journal.done))
            left = [tensor for tensor in plan.tensors if tensor.name not in journal.done]
            with closing(_each(merge, left, workers)) as rows:  # so that no thread is at work when the files are closed
                for row in rows:
                    journal.add(row)
                    progress.advance()
    finally:
        readers.close()
        writer.close()
    return layout, [journal.done[tensor.name] for tensor in plan.tensors]


def num_workers(asked: int) -> int:
    """Threads at work: as many as asked for, for 0 one a core up to 8."""
    return asked or min(os.cpu_count() or 1, _MOST_WORKERS)


class _Readers:
    """A reader for each thread that asks: what one shows, only that thread may let go."""

    def __init__(self, inputs: int) -> None:
        self._inputs, self._local, self._all = inputs, threading.local(), list[Reader]()

    def mine(self) -> Reader:
        if not hasattr(self._local, "reader"):
            self._local.reader = Reader(self._inputs)
            self._all.append(self._local.reader)
        reader: Reader = self._local.reader
        return reader

    def close(self) -> None:
        for reader in self._all:
            reader.close()


def _each(merge: Callable[[PlannedTensor], dict[str, Any]], tensors: list[PlannedTensor], workers: int
          ) -> Generator[dict[str, Any]]:
    """Rows of the tensors as they get finished; what has not begun when one fails, or on Ctrl-C, is not begun."""
    workers = min(num_workers(workers), len(tensors))
    if workers <= 1:
        yield from map(merge, tensors)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(merge, tensor) for tensor in tensors]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def remove_journal(folder: Path) -> None:
    """Forget which tensors are written: the last act, once everything else of the model is there."""
    (folder / _JOURNAL).unlink()


def _merge_tensor(task: PlannedTensor, reader: Reader, writer: Writer, operator: Operator, chunk: int) -> dict[str, Any]:
    chunk = whole_units(chunk, operator.unit)
    for number in range(operator.passes):
        for start, count in chunks(task.numel, chunk):
            operator.observe(number, read_inputs(task, reader, start, count), start)
        operator.settle(number)
    account = Account(task)
    for start, count in chunks(task.numel, chunk):
        inputs = read_inputs(task, reader, start, count)
        merged = operator.apply(inputs, start)
        account.add(merged, inputs, start, operator.peaks)
        writer.write(task.name, start, merged)
    writer.finish(task.name)
    return {"name": task.name, "shape": list(task.shape), **account.facts(), **operator.facts()}
