"""The output head of a lean engine: float32 logits straight from bfloat16 weights, where there are tiles.

Converting weights piece by piece, as is done otherwise, takes 112 ms for 48 states and weights of 49,152 x 576, this 19 ms (both
beside other work), and 40 MB less.
"""

from functools import partial

import torch
from torch import Tensor, nn

from biomistral.loops.sharing import share
from biomistral.models.quantized.dequantise import Scratch
from biomistral.scoring.engine import AnswerHead
from biomistral.scoring.lean.native import has_tiles, run

ROWS, COLUMNS = 16, 64
"""Outputs and hidden states of one product of tiles."""

_BLOCKS = 256
"""Blocks of outputs that are worth a thread."""


class Head:
    """Logits of hidden states, the same bits for a state whatever stands beside it."""

    def __init__(self, head: nn.Module, chunk: int, scratch: Scratch) -> None:
        self._plain, self._head, self._scratch = AnswerHead(head, chunk), head, scratch
        self._by_tiles = (type(head) is nn.Linear and head.weight.dtype is torch.bfloat16 and head.in_features % 32 == 0
                          and head.out_features >= ROWS and head.weight.is_contiguous() and has_tiles())

    def __call__(self, hidden: Tensor, exact: bool) -> Tensor:
        """``(states, width)`` in bfloat16 to ``(states, vocabulary)``: in float32 if ``exact``."""
        if exact and self._by_tiles:
            return self._multiplied(hidden)
        self._plain.exact = exact
        return self._plain.logits(hidden)

    def _multiplied(self, hidden: Tensor) -> Tensor:
        count, width = hidden.shape
        room, outputs = -count % COLUMNS + count, self._head.out_features
        columns = torch.zeros(width // 2, room, dtype=torch.int32)
        columns[:, :count] = hidden.view(torch.int32).t()
        logits = torch.empty(outputs, room)
        share(-(-outputs // ROWS), _BLOCKS, partial(self._part, columns, logits))
        found = logits[:, :count].t().contiguous()  # sums over a row are taken in an order that hangs on how it lies
        return found if self._head.bias is None else found + self._head.bias.float()

    def _part(self, columns: Tensor, logits: Tensor, first: int, last: int) -> None:
        spare = self._scratch.take("layout", torch.float32, 16)
        run("multiply_rows", self._head.weight, *self._head.weight.shape, columns, columns.shape[1], logits, first, last, spare)
