"""``metrics.jsonl``: one line a step, cut back to the checkpoint on resume; and the held-out loss."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.files import write_text
from biomistral.training.data.batch import Blocks, MicroBatch, collate
from biomistral.training.parallel import Group
from biomistral.training.watching.sinks import Sink


class MetricsLog:
    """Rows of a training, on disk as soon as they are added, and in the sinks after that."""

    def __init__(self, path: Path, done: int, sinks: Sequence[Sink] = ()) -> None:
        """Open the log after ``done`` steps: what was written about later ones will be written again."""
        self.path, self.sinks = path, sinks
        self.rows = [row for row in _whole_rows(path) if done and row["step"] <= done]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        for row in self.rows:
            self._pass_on(row)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row (NaN is refused: JSON has no such number)."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._pass_on(row)

    def _pass_on(self, row: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.add(row)

    def close(self) -> None:
        """The training has ended, or was interrupted: what the sinks still hold goes out."""
        for sink in self.sinks:
            sink.close()

    def heldout(self) -> list[dict[str, Any]]:
        """The rows that hold a held-out loss: the first is from before training, the last from its end."""
        return [row for row in self.rows if "heldout_loss" in row]

    def total(self, name: str) -> float:
        """Sum of a column over the steps."""
        return float(sum(row.get(name, 0) for row in self.rows))


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run, up to a line that was cut off in the writing."""
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def evenly_spread(size: int, limit: int) -> list[int]:
    """At most ``limit`` of ``range(size)``, from its start to its end."""
    count = min(size, limit)
    return [number * size // count for number in range(count)]


def heldout_loss(model: PreTrainedModel, blocks: Blocks, limit: int, max_tokens: int, group: Group,
                 loss_of: Callable[[MicroBatch, int], Tensor]) -> dict[str, float]:
    """Mean loss in nats a predicted token over at most ``limit`` blocks, and bits a byte of their text.

    Bits per byte = loss / ln 2 * tokens per byte: comparable between tokenizers, where the loss is not. Each process of the
    group takes its part of the blocks; ``loss_of`` is the model's `batch_loss`.
    """
    chosen = [blocks[index] for index in group.share(evenly_spread(len(blocks), limit))]
    num_predicted = max(1, int(group.sum(sum(block.num_predicted for block in chosen))[0]))
    training, part = model.training, 0.0
    model.eval()
    with torch.no_grad():
        for blocks_at_once in group.micro_batches(chosen, max_tokens):
            part += float(loss_of(collate(blocks_at_once, group.device), num_predicted))
    model.train(training)
    loss = group.sum(part)[0]
    return {"heldout_loss": loss, "heldout_bits_per_byte": loss / math.log(2) * blocks.tokens_per_byte}
