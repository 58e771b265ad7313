"""An input's tensor as a merge sees it: as it is stored, or changed on the way by an adapter or by another vocabulary."""

from typing import Protocol

import numpy as np

from biomistral.merging.checkpoint import Reader
from biomistral.merging.floats import Float, converted
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.rows import Rows


class View(Protocol):
    """A tensor that is made part by part while it is read, and never as a whole.

    ``slot`` is the reader's that may be used; what is returned, in its storage, is valid until that slot is read again.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Float: ...

    @property
    def nbytes(self) -> int: ...

    def read(self, reader: Reader, slot: int, start: int, count: int) -> np.ndarray: ...


def read_inputs(task: PlannedTensor, reader: Reader, start: int, count: int) -> Rows:
    """Elements ``start`` to ``start + count`` of every input, in the type the merge computes in; not to be written to, and valid
    until they are read again."""
    found = []
    for slot, source in enumerate(task.inputs):
        part = (source.view.read(reader, slot, start, count) if source.view is not None
                else reader.read(slot, source.tensor, source.stored, start, count))
        found.append(converted(part, source.dtype, task.dtype))
    return Rows(found)
