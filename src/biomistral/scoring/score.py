"""Turn logits into answers: option letters by constrained decoding, or options by their likelihood (cloze)."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biomistral.errors import UserError
from biomistral.models.tokens import Tokenizer
from biomistral.scoring.engine import Engine, Prefix, batches


@dataclass(frozen=True)
class Item:
    """A tokenised question: ``prompt`` ids, and for cloze the ids of each option, which continue them."""

    id: str
    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LetterAnswer:
    """``probabilities`` renormalised over the letters; ``mass`` what they held before; ``open_token`` the vocabulary's argmax."""

    probabilities: list[float]
    mass: float
    open_token: int
    seconds: float


@dataclass(frozen=True)
class ClozeAnswer:
    """Log-likelihood of each option as a continuation, summed over its tokens, and how many tokens it has."""

    sums: list[float]
    lengths: list[int]
    seconds: float

    @property
    def means(self) -> list[float]:
        return [total / length for total, length in zip(self.sums, self.lengths, strict=True)]


@dataclass(frozen=True)
class TextAnswer:
    """Tokens that a model generated, its end left out."""

    tokens: list[int]
    seconds: float


def softmax(scores: Sequence[float]) -> list[float]:
    """Probabilities from log scores."""
    powers = np.exp(np.asarray(scores, dtype=np.float64) - max(scores))
    return [float(value) for value in powers / powers.sum()]


def cloze_item(name: str, stem: Sequence[int], joint: Sequence[Sequence[int]]) -> Item:
    """Cut stem and options on ids tokenised jointly: where the stem's last token merges with an option's first one, the
    cut moves left for all options, so that all are scored after the same stem.

    Raises:
        UserError: an option adds no token to the stem.
    """
    cut = min(next((place for place, (a, b) in enumerate(zip(stem, ids, strict=False)) if a != b), min(len(stem), len(ids)))
              for ids in joint)
    options = tuple(tuple(ids[cut:]) for ids in joint)
    if cut == 0 or not all(options):
        raise UserError(f"question {name!r}: stem or option has no token of its own in this tokenizer; ask it by letter")
    return Item(name, tuple(stem[:cut]), options)


def refuse_damaged(values: Tensor, items: Sequence[Item]) -> None:
    """Raise a UserError that names the first question whose numbers are not finite; ``values`` has a row a question."""
    sound = torch.isfinite(values.reshape(len(items), -1)).all(dim=1)
    if not bool(sound.all()):
        raise _damaged(items[int((~sound).nonzero()[0, 0])])


def _damaged(item: Item) -> UserError:
    return UserError(f"question {item.id!r}: the model computes NaN or infinite logits; its weights are damaged or overflow in "
                     "this precision (try --dtype float32)")


def score_letters(engine: Engine, prefix: Prefix, items: Sequence[Item], letters: Sequence[Sequence[tuple[int, ...]]],
                  ) -> list[LetterAnswer]:
    """Score one batch; ``letters[i]`` holds the tokens of each option letter of item i.

    Raises:
        UserError: the logits of a question are not finite.
    """
    started = time.perf_counter()
    logits, _ = engine.last_logits(prefix, [item.prompt[prefix.length:] for item in items], keep=False)
    total = logits.logsumexp(dim=1)
    refuse_damaged(total, items)
    open_tokens = logits.argmax(dim=1).tolist()
    logprobs = [torch.stack([row[list(forms)].logsumexp(0) for forms in tokens]).double() - whole.double()
                for row, whole, tokens in zip(logits, total, letters, strict=True)]
    refuse_damaged(torch.stack([own.max() for own in logprobs]), items)  # all letters ruled out: nothing to choose by
    seconds = (time.perf_counter() - started) / len(items)
    return [LetterAnswer(softmax(own.tolist()), min(1.0, float(own.exp().sum())), token, seconds)
            for own, token in zip(logprobs, open_tokens, strict=True)]


def score_texts(engine: Engine, prefix: Prefix, items: Sequence[Item], longest: int, ends: set[int]) -> list[TextAnswer]:
    """Have each question of a batch answered in words, without any draw.

    Raises:
        UserError: the logits of a question are not finite.
    """
    started = time.perf_counter()
    try:
        said = engine.greedy(prefix, [item.prompt[prefix.length:] for item in items], longest, ends)
    except FloatingPointError as error:
        raise _damaged(items[error.args[0]]) from error
    seconds = (time.perf_counter() - started) / len(items)
    return [TextAnswer(tokens, seconds) for tokens in said]


def score_cloze(engine: Engine, prefix: Prefix, items: Sequence[Item]) -> list[ClozeAnswer]:
    """Score one batch: each stem once, then every option as a continuation of its stem's keys and values.

    Raises:
        UserError: the logits of a question are not finite.
    """
    started = time.perf_counter()
    stems = [item.prompt[prefix.length:] for item in items]
    logits, cache = engine.last_logits(prefix, stems)
    refuse_damaged(logits.logsumexp(dim=1), items)
    first = logits.log_softmax(dim=1)
    sums = [[float(first[index, option[0]]) for option in item.options] for index, item in enumerate(items)]
    for batch in _continuations(items, engine.max_batch_tokens):
        logprobs = engine.continuation_logprobs(prefix, cache, [len(stem) for stem in stems], [index for index, _ in batch],
                                                [items[index].options[place] for index, place in batch])
        for (index, place), values in zip(batch, logprobs, strict=True):
            sums[index][place] += float(values.double().sum())
    for item, own in zip(items, sums, strict=True):
        if not all(map(math.isfinite, own)):
            refuse_damaged(torch.tensor([own]), [item])
    seconds = (time.perf_counter() - started) / len(items)
    return [ClozeAnswer(own, [len(option) for option in item.options], seconds)
            for own, item in zip(sums, items, strict=True)]


def _continuations(items: Sequence[Item], max_batch_tokens: int) -> list[list[tuple[int, int]]]:
    """Options that take a forward pass of their own, (item, option), by batch: those of one token are read off the stem.

    Half a batch at a time: logits are read at every token here, and those of 1,024 tokens would take 100 to 300 MB.
    """
    longer = [(index, place) for index, item in enumerate(items) for place, option in enumerate(item.options) if len(option) > 1]
    costs = [len(items[index].options[place]) - 1 for index, place in longer]
    return [[longer[row] for row in batch] for batch in batches(costs, max_batch_tokens // 2)]


def num_forwards(items: Sequence[Item], max_batch_tokens: int) -> int:
    """How many forward passes it takes to score a batch, its prefix not counted."""
    return 1 + len(_continuations(items, max_batch_tokens))


def decoded(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token, without the space some tokenizers keep in front."""
    return str(tokenizer.decode([token])).strip()
