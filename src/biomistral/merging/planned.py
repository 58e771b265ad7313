"""What is planned for one tensor of the result: how it is made, and of which parts of which models."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biomistral.merging.checkpoint import StoredTensor
from biomistral.merging.floats import Float

if TYPE_CHECKING:
    from biomistral.merging.views import View


@dataclass(frozen=True)
class PlannedInput:
    """One model's part in one tensor; ``view`` is how it is seen where it is not taken as it is stored."""

    model: str
    tensor: str
    stored: StoredTensor
    parameters: dict[str, Any]
    view: "View | None" = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape if self.view is None else self.view.shape

    @property
    def dtype(self) -> Float:
        return self.stored.dtype if self.view is None else self.view.dtype

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes if self.view is None else self.view.nbytes


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result. ``dtype`` is what is computed in, ``out_dtype`` what is written; if ``based``, the base comes
    first."""

    name: str
    method: str
    shape: tuple[int, ...]
    dtype: Float
    out_dtype: Float
    parameters: dict[str, Any]
    inputs: tuple[PlannedInput, ...]
    based: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.out_dtype.itemsize
