"""A sequence of tokens made of segments, and the batches and losses that come from it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.training.compute.loss import chunked_cross_entropy
from biomistral.training.compute.segments import Segments

IGNORE = -100
"""Label of a position whose next token is not predicted."""

_CHECKED = {"cpu": (10, 6), "cuda": (150, 97)}
"""Tokens of the two segments a model is checked with; a GPU's kernel works on tiles of 64 or 128, which these cross."""


@dataclass(frozen=True)
class Block:
    """One sequence: whole segments that never attend to one another.

    ``tokens`` and ``labels`` are (length,) int64, a label being the next token or `IGNORE`; ``lengths`` are the segments',
    in tokens; ``documents`` the ids of what they are taken from.
    """

    tokens: np.ndarray
    labels: np.ndarray
    lengths: tuple[int, ...]
    documents: tuple[str, ...]

    @property
    def num_predicted(self) -> int:
        return int((self.labels != IGNORE).sum())


class Blocks(Protocol):
    """Blocks by number, the tokens in all of them, and how many tokens stand for a byte of their text."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def tokens_per_byte(self) -> float: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Block: ...


@dataclass(frozen=True)
class MicroBatch:
    """Blocks laid end to end in one row, without padding: (1, tokens) each; ``segments`` say what may see what."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    segments: Segments

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.shape[1])


def collate(blocks: Sequence[Block], device: torch.device) -> MicroBatch:
    """Lay blocks end to end; positions start again at 0 with every segment."""
    segments = [length for block in blocks for length in block.lengths]
    positions = np.concatenate([np.arange(length) for length in segments])
    columns = (np.concatenate([block.tokens for block in blocks]), positions,
               np.concatenate([block.labels for block in blocks]))
    ids, position_ids, labels = (torch.from_numpy(column.astype(np.int64))[None].to(device) for column in columns)
    return MicroBatch(ids, position_ids, labels, Segments(segments))


def micro_batches(blocks: Iterable[Block], max_tokens: int) -> Iterator[list[Block]]:
    """Cut a step's blocks, in order, into groups of at most ``max_tokens`` (at least one block each)."""
    group: list[Block] = []
    for block in blocks:
        if group and sum(len(member.tokens) for member in group) + len(block.tokens) > max_tokens:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def final_hidden(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Hidden states after the last norm, (tokens, hidden_size)."""
    output = model.get_decoder()(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False,
                                 segments=batch.segments)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def batch_loss(model: PreTrainedModel, batch: MicroBatch, num_predicted: int) -> Tensor:
    """The micro-batch's share of the loss of a step with ``num_predicted`` predicted tokens; the head runs on those alone."""
    hidden, labels = final_hidden(model, batch), batch.labels[0]
    predicted = labels.ne(IGNORE).nonzero()[:, 0]
    if len(predicted) < len(labels):
        hidden, labels = hidden.index_select(0, predicted), labels.index_select(0, predicted)
    head = model.get_output_embeddings().weight
    return chunked_cross_entropy(hidden, head, labels, num_predicted)


def _by_transformers(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """`final_hidden` of one segment with transformers' plain attention, and nothing compiled."""
    ours = model.config._attn_implementation
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    model.set_attn_implementation("eager")
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            return final_hidden(model, batch)
    finally:
        model.set_attn_implementation(ours)


def check_model(model: PreTrainedModel, device: torch.device) -> None:
    """Prove on a few tokens, on the device that will compute, that attention is right and keeps segments apart, and that the
    logits are the head times the hidden states.

    Raises:
        UserError: this architecture does more (scaled or capped logits, recurrent state), or a kernel computes something else:
            training would be wrong.
    """
    first, rest = _CHECKED.get(device.type, _CHECKED["cpu"])
    tokens = np.arange(3, 3 + first + rest) % model.config.vocab_size
    both, alone = (collate([Block(ids, ids, lengths, ())], device)
                   for ids, lengths in ((tokens, (first, rest)), (tokens[first:], (rest,))))
    with torch.no_grad():
        second, hidden = final_hidden(model, both)[first:], final_hidden(model, alone)
        dtype = hidden.dtype
        second, hidden = second.float(), hidden.float()
        plain = _by_transformers(model, alone).float()
        logits = model(input_ids=alone.input_ids, position_ids=alone.position_ids, use_cache=False,
                       segments=alone.segments).logits[0].float()
        ours = hidden @ model.get_output_embeddings().weight.float().T
    name = type(model).__name__
    if not _alike(hidden, plain, dtype):
        raise UserError(f"{name}: attention as computed here on {device} is not what transformers computes; train on another "
                        "device or with another torch, and report this")
    if not _alike(second, hidden, dtype):
        raise UserError(f"{name}: a document changes what is computed for the next one, so documents cannot be isolated; "
                        "train a decoder-only attention model")
    if not _alike(ours, logits, dtype):
        raise UserError(f"{name}: its logits are not its head times its hidden states (scaled, capped or with a bias), which "
                        "the loss here relies on; train another model")


def _alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Equal but for the rounding of ``dtype``: by the norm of the difference as a share of the norm of what is expected.

    In 16 bits SmolLM2's 30 layers leave 0.033 to 0.042 between two right orders of computing; attention to later tokens or to
    another document 0.96, heads exchanged 0.60, a scale twice too large 0.14. The largest element says less: 0.057 where all
    is right. In float32 right orders agree to 1e-5.
    """
    limit = 0.01 if dtype == torch.float32 else 0.1
    return float((found - expected).norm()) <= limit * float(expected.norm())
