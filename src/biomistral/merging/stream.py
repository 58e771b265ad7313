"""Carry out a plan: tensor by tensor, chunk by chunk, in memory that a chunk bounds and no tensor does."""

import math
from pathlib import Path
from typing import Any

import torch

from biomistral.errors import UserError
from biomistral.merging.checkpoint import Reader
from biomistral.merging.compatibility import chunks
from biomistral.merging.methods import BLOCK, block_sums
from biomistral.merging.operators import operator_for
from biomistral.merging.plan import CHUNK, Plan, PlannedTensor
from biomistral.merging.writer import Journal, Layout, Writer, lay_out
from biomistral.progress import bar

_JOURNAL = ".journal.jsonl"

def stream(plan: Plan, folder: Path, seed: int = 0, dare_rescale: str = "mergekit", max_shard_bytes: int = 5_000_000_000,
           chunk: int = CHUNK) -> tuple[Layout, list[dict[str, Any]]]:
    """Write the merged weights into ``folder``; work cut off there earlier goes on at the next tensor.

    Returns the layout of the files and one row a tensor: its drift from each input and what the method reports.
    Neither ``chunk`` (elements, rounded up to whole blocks) nor a resume changes a bit.

    Raises:
        UserError: a value that is not finite, or an input that changed while it was read.
    """
    chunk = -(-chunk // BLOCK) * BLOCK
    layout = lay_out(plan.tensors, max_shard_bytes)
    journal = Journal(folder / _JOURNAL, layout)
    reader = Reader(max(len(tensor.inputs) for tensor in plan.tensors), chunk)
    writer = Writer(folder, layout, fresh=not journal.done)
    try:
        with bar("merging tensors", len(plan.tensors)) as progress:
            for tensor in plan.tensors:
                if tensor.name not in journal.done:
                    journal.add(_merge_tensor(tensor, reader, writer, seed, dare_rescale, chunk))
                progress.advance()
    finally:
        reader.close()
        writer.close()
    return layout, [journal.done[tensor.name] for tensor in plan.tensors]


def remove_journal(folder: Path) -> None:
    """Forget which tensors are written: the last act, once everything else of the model is there."""
    (folder / _JOURNAL).unlink()


def _merge_tensor(task: PlannedTensor, reader: Reader, writer: Writer, seed: int, dare_rescale: str, chunk: int
                  ) -> dict[str, Any]:
    operator = operator_for(task, seed, dare_rescale)
    for number in range(operator.passes):
        for start, count in chunks(task.numel, chunk):
            operator.observe(number, _read(task, reader, start, count), start)
        operator.settle(number)
    drift = [_Drift() for _ in task.inputs]
    for start, count in chunks(task.numel, chunk):
        tensors = _read(task, reader, start, count)
        merged = operator.apply(tensors, start).to(task.out_dtype)
        for one, tensor in zip(drift, tensors, strict=True):
            one.add(merged, tensor)
        if not all(one.finite for one in drift):
            _refuse_not_finite(task, start, merged, tensors)
        writer.write(task.name, start, merged)
    return {"name": task.name, "shape": list(task.shape),
            "drift": {source.model: one.relative for source, one in zip(task.inputs, drift, strict=True)}, **operator.facts()}


def _read(task: PlannedTensor, reader: Reader, start: int, count: int) -> list[torch.Tensor]:
    return [reader.read(slot, source.tensor, source.stored, start, count).to(task.dtype)
            for slot, source in enumerate(task.inputs)]


class _Drift:
    """How far the result lies from one input: relative L2, ``|result - input| / |input|``."""

    def __init__(self) -> None:
        self._moved: list[float] = []
        self._size: list[float] = []
        self.finite = True

    def add(self, merged: torch.Tensor, tensor: torch.Tensor) -> None:
        values = tensor.float()
        moved, size = block_sums((merged.float() - values).square_()), block_sums(values * values)
        self.finite = math.isfinite(sum(moved)) and math.isfinite(sum(size))
        self._moved += moved
        self._size += size

    @property
    def relative(self) -> float | None:
        """None where the input is all zeros and the result is not, or the squares leave float32's range."""
        moved, size = math.fsum(self._moved), math.fsum(self._size)
        if not (math.isfinite(moved) and math.isfinite(size)):
            return None
        return 0.0 if moved == 0 else math.sqrt(moved / size) if size else None


def _refuse_not_finite(task: PlannedTensor, start: int, merged: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    """Say where the first value is that is NaN or infinite; return if it was only a square that overflowed."""
    for source, tensor in zip(task.inputs, tensors, strict=True):
        if len(places := (~torch.isfinite(tensor)).nonzero()):
            place = int(places[0])
            raise UserError(f"{source.stored.file}: tensor {source.tensor} holds {float(tensor[place])} at element "
                            f"{start + place}; this model is damaged, make or download it again")
    if len(places := (~torch.isfinite(merged)).nonzero()):
        place = int(places[0])
        raise UserError(f"the merge gives {float(merged[place])} at element {start + place} of {task.name}: the weights in the "
                        f"merge file are too large for {str(task.out_dtype).removeprefix('torch.')}")
