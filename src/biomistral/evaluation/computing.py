"""A loaded model that answers parts, in smaller batches where memory ends."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from biomistral.errors import UserError
from biomistral.evaluation.answering import Part
from biomistral.progress import log
from biomistral.scoring.engine import Engine, Prefix
from biomistral.scoring.rows import answer_rows
from biomistral.scoring.tally import Row

_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch says that there is no more memory; on a CPU it has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in _WORDS)


class Computer:
    """Answers parts with one engine. What the prompts of a group begin with is computed once, as long as parts of it follow.

    Batches are halved where memory ends, and those that follow are no larger: one that does not fit costs a pass that is thrown
    away. ``halvings`` counts how often.
    """

    def __init__(self, engine: Engine, tokenizer: Any) -> None:
        self.engine, self.tokenizer, self.halvings = engine, tokenizer, 0
        self._room: int | None = None
        self._shared: tuple[tuple[int, ...], Prefix] | None = None

    def compute(self, parts: Sequence[Part]) -> Iterator[list[Row]]:
        """The rows of some parts, in their order; see `answering.Compute`."""
        return map(self.rows, parts)

    def rows(self, part: Part) -> list[Row]:
        """
        Raises:
            UserError: the logits of a question are not finite, or it alone does not fit into memory.
        """
        return [row for batch in part.batches for row in self._fitting(part, batch)]

    def _prefix(self, part: Part) -> Prefix:
        tokens = part.group.items[0].prompt[: part.shared]
        if self._shared is None or self._shared[0] != tokens:
            self._shared = None  # its memory goes before the next one's is taken
            self._shared = tokens, self.engine.prefix(tokens)
        return self._shared[1]

    def _fitting(self, part: Part, batch: Sequence[int]) -> list[Row]:
        cost = part.cost(batch[0])  # the longest stands first
        most = len(batch) if self._room is None else max(1, self._room // cost)
        if most < len(batch):
            return [row for start in range(0, len(batch), most) for row in self._fitting(part, batch[start: start + most])]
        try:
            return list(answer_rows(self.engine, self._prefix(part), part.group, batch, self.tokenizer, ""))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise UserError(f"question {part.group.items[batch[0]].id!r}: not enough memory for its "
                                f"{len(part.group.items[batch[0]].prompt)} tokens alone; choose fewer shots, --dtype bfloat16 "
                                "or a machine with more memory") from error
        self._halve(cost * len(batch))
        return self._fitting(part, batch)

    def _halve(self, tokens: int) -> None:
        """Go on in batches of half as many tokens."""
        self._room, self.halvings = tokens // 2, self.halvings + 1
        self.engine.max_batch_tokens = min(self.engine.max_batch_tokens, self._room)
        log.warning("not enough memory for a batch of %d tokens: going on with %d (--max-batch-tokens)", tokens, self._room)
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
