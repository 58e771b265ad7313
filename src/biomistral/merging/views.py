"""An input's tensor as a merge sees it: as it is stored, or changed on the way by an adapter or by another vocabulary."""

from typing import Protocol

import torch

from biomistral.merging.checkpoint import Reader
from biomistral.merging.planned import PlannedTensor


class View(Protocol):
    """A tensor that is made part by part while it is read, and never as a whole.

    ``slot`` is the reader's buffer that may be used; what is returned is valid until that slot is read again.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def nbytes(self) -> int: ...

    def read(self, reader: Reader, slot: int, start: int, count: int) -> torch.Tensor: ...


def read_inputs(task: PlannedTensor, reader: Reader, start: int, count: int) -> list[torch.Tensor]:
    """Elements ``start`` to ``start + count`` of every input, flat, in the type the merge computes in."""
    parts = [reader.read(slot, source.tensor, source.stored, start, count) if source.view is None
             else source.view.read(reader, slot, start, count) for slot, source in enumerate(task.inputs)]
    return [part.to(task.dtype) for part in parts]
