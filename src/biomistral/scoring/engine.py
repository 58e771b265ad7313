"""The local engine: batched forward passes that share a prefix and compute only the logits that are read.

Rows are padded on the right, so without any mask no real token ever sees padding; what a group of prompts starts with
(instruction, shots, the words of the question's template) is computed once and its keys and values are reused.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from biomistral.models.load import num_parameters
from biomistral.models.quantized.linear import same_for_any_batch

if TYPE_CHECKING:  # the lean engine does without
    from transformers import DynamicCache, PreTrainedModel

_VOCABULARY_AT_ONCE = 8192
_READS_AT_ONCE = 32  # a float32 row of 49,152 logits is 0.2 MB, of 151,936 0.6 MB
_SHORTEST_PREFIX = 4
_CACHED_TOKENS_PER_TOKEN = 8  # a cached token costs attention only: about an eighth of a computed one in a small model
_DEFAULT_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}

Rows = Sequence[Sequence[int]]


class AnswerHead(nn.Module):  # type: ignore[misc]
    """The model's output head, applied only where logits are read: the full vocabulary at every position would cost a
    small model more than a quarter of its time. The model's own forward runs around it, with any scaling or capping
    that an architecture does afterwards.
    """

    def __init__(self, head: nn.Module, chunk: int = 0) -> None:
        """``chunk``: places multiplied at once, so that their bits do not depend on how many are read; 0 is all."""
        super().__init__()
        self.head, self.chunk = head, chunk
        self.read: tuple[Tensor, Tensor] | None = None
        self.exact = False

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, sequence, width)`` to the ``(1, reads, vocabulary)`` logits at the (rows, positions) to be read."""
        assert self.read is not None, "nothing was asked for"
        return self.logits(hidden[self.read])[None]

    def logits(self, picked: Tensor) -> Tensor:
        """``(reads, width)`` to ``(reads, vocabulary)``."""
        if not self.exact or not isinstance(self.head, nn.Linear) or not self.head.weight.is_floating_point():
            return self._in_chunks(self.head, picked)
        return self._float32(self.head, picked.float())

    def _in_chunks(self, product: Callable[[Tensor], Tensor], picked: Tensor) -> Tensor:
        if not self.chunk:
            return torch.as_tensor(product(picked))
        padded = functional.pad(picked, (0, 0, 0, -len(picked) % self.chunk))
        return torch.cat([torch.as_tensor(product(part)) for part in padded.split(self.chunk)])[:len(picked)]

    def _float32(self, head: nn.Linear, picked: Tensor) -> Tensor:
        """Logits in float32 from weights of any precision: bfloat16 logits are 0.1 apart near 20, and equal letters
        would all go to A."""
        parts = [self._in_chunks(partial(functional.linear, weight=weight.float()), picked)
                 for weight in head.weight.split(_VOCABULARY_AT_ONCE)]
        logits = torch.cat(parts, dim=-1)
        return logits if head.bias is None else logits + head.bias.float()


@dataclass(frozen=True)
class Prefix:
    """Leading tokens that all prompts of a group share, and their keys and values (None: nothing is shared)."""

    length: int
    cache: Any


def common_prefix(rows: Rows) -> int:
    """How many leading tokens all rows share."""
    first, last = min(map(tuple, rows)), max(map(tuple, rows))  # in lexical order all others lie between these two
    for index, (mine, other) in enumerate(zip(first, last, strict=False)):
        if mine != other:
            return index
    return min(len(first), len(last))


def shared_length(rows: Rows) -> int:
    """Tokens to cut off and share: the longest common prefix of the tokenised prompts that leaves each a token."""
    if len(rows) < 2:
        return 0
    length = min(common_prefix(rows), min(map(len, rows)) - 1)
    return length if length >= _SHORTEST_PREFIX else 0


def cost(length: int, prefix: int) -> int:
    """What a row counts against the tokens of a batch: its own tokens, and an eighth of those it finds in the cache."""
    return length + prefix // _CACHED_TOKENS_PER_TOKEN


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward pass, unless told otherwise."""
    return _DEFAULT_BATCH_TOKENS.get(device.type, 1024)


def is_packed(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a recognised model's rows are computed behind one another, by the lean engine."""
    return dtype is torch.bfloat16 and device.type == "cpu"


def batches(costs: Sequence[int], budget: int, padded: bool = True) -> list[list[int]]:
    """Group indices so that rows of like cost stand together, longest first; a batch costs its longest times its rows where these
    are padded, else their sum.

    A row over the budget is a batch of its own. The grouping depends on the costs and their order alone.
    """
    groups: list[list[int]] = []
    spent = 0
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        more = costs[groups[-1][0]] if groups and padded else costs[index]
        if groups and spent + more <= budget:
            groups[-1].append(index)
            spent += more
        else:
            groups.append([index])
            spent = costs[index]
    return groups


def _select(cache: "DynamicCache", rows: Tensor) -> "DynamicCache":
    """A cache of these rows of another, which stays as it was: layers replace their tensors, they do not write into them."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def _aligned(cache: "DynamicCache", rows: Tensor, shifts: Tensor) -> "DynamicCache":
    """These rows of a cache, each moved right by its padding: what continues them then stands right behind them, as a
    sliding window, which counts places and not positions, has to see it."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    width = cache.get_seq_length()
    places = (torch.arange(width, device=shifts.device) - shifts[:, None]) % width
    for layer in chosen.layers:
        layer.keys = layer.keys[rows[:, None], :, places].transpose(1, 2)
        layer.values = layer.values[rows[:, None], :, places].transpose(1, 2)
    return chosen


def token_logprobs(logits: Tensor, rows: Rows) -> list[Tensor]:
    """Log-probability of each token but the first of each row; the logits of all these places lie behind one another."""
    targets = torch.tensor([token for row in rows for token in row[1:]], device=logits.device)
    logprobs = torch.cat([part.float().log_softmax(-1).gather(1, target[:, None])[:, 0]
                          for part, target in zip(logits.split(_READS_AT_ONCE), targets.split(_READS_AT_ONCE), strict=True)])
    return list(logprobs.split([len(row) - 1 for row in rows]))


def end_tokens(model: "PreTrainedModel") -> set[int]:
    """The tokens that end an answer, as the generation settings of the model say."""
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {token for token in (said if isinstance(said, list) else [said]) if token is not None}


def _directly(compute: Callable[[], Any]) -> Any:
    return compute()


class Engine:
    """Forward passes of one model; its output head is replaced by an `AnswerHead`, until `give_back`.

    ``run`` calls the function that computes a forward pass: a model whose weights are in parts has to gather some around it.
    """

    def __init__(self, model: "PreTrainedModel", max_batch_tokens: int = 0,
                 run: Callable[[Callable[[], Any]], Any] = _directly) -> None:
        self.model, self._run = model, run
        self.parameters, self.device, self.dtype = num_parameters(model), model.device, model.dtype
        self.ends = end_tokens(model)
        self.max_batch_tokens = max_batch_tokens or batch_tokens(self.device)
        self.head = AnswerHead(model.get_output_embeddings())
        model.set_output_embeddings(self.head)
        same_for_any_batch(model)

    def give_back(self) -> None:
        """Give the model its own output head again; the engine is then of no more use."""
        self.model.set_output_embeddings(self.head.head)

    def idle(self) -> None:
        """A forward pass that nothing is read of, for a process that must compute as often as others do."""
        self._forward(torch.zeros(1, 1, dtype=torch.long, device=self.device), self._new_cache(), [0], [0])

    @staticmethod
    def _new_cache() -> "DynamicCache":
        from transformers import DynamicCache

        return DynamicCache()

    shared_length = staticmethod(shared_length)
    cost = staticmethod(cost)

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """Compute shared leading tokens once."""
        if not tokens:
            return Prefix(0, None)
        cache = self._new_cache()
        self._forward(torch.tensor([tokens], device=self.device), cache, [0], [len(tokens) - 1])
        return Prefix(len(tokens), cache)

    def last_logits(self, prefix: Prefix, rows: Rows, keep: bool = True) -> tuple[Tensor, Any]:
        """Float32 logits after each row, shape ``(rows, vocabulary)``, and the cache of prefix and rows (right-padded), which
        an engine need not have where it is not to be kept."""
        cache = self._new_cache() if prefix.cache is None else _select(
            prefix.cache, torch.zeros(len(rows), dtype=torch.long, device=self.device))
        logits = self._forward(self._padded(rows), cache, range(len(rows)), [len(row) - 1 for row in rows], exact=True)
        return logits.float(), cache

    def continuation_logprobs(self, prefix: Prefix, cache: Any, lengths: Sequence[int], parents: Sequence[int],
                              rows: Rows) -> list[Tensor]:
        """Log-probability of each token but the first of each row, given what stands before it.

        ``cache`` holds the prefix and the rows of ``last_logits``, whose unpadded ``lengths`` these are; row i continues
        number ``parents[i]`` of them. Shapes: one ``(len(row) - 1,)`` float32 tensor a row.
        """
        own = torch.tensor(parents, device=self.device)
        past = prefix.length + torch.tensor(lengths, device=self.device)[own][:, None]
        inputs = self._padded([row[:-1] for row in rows])
        padding = cache.get_seq_length() - past
        mask = (torch.arange(cache.get_seq_length() + inputs.shape[1], device=self.device) >= padding).long()
        positions = past + torch.arange(inputs.shape[1], device=self.device)
        reads = [(index, position) for index, row in enumerate(rows) for position in range(len(row) - 1)]
        logits = self._forward(inputs, _aligned(cache, own, padding[:, 0]), [index for index, _ in reads],
                               [place for _, place in reads], mask=mask, positions=positions)
        return token_logprobs(logits, rows)

    def greedy(self, prefix: Prefix, rows: Rows, longest: int, ends: set[int]) -> list[list[int]]:
        """The likeliest token after each row, then after that one, up to ``longest`` or one of ``ends``, which is left out.

        Raises:
            FloatingPointError: logits of a row are not finite; its argument is the row.
        """
        logits, cache = self.last_logits(prefix, rows)
        padding = torch.tensor([max(map(len, rows)) - len(row) for row in rows], device=self.device)
        cache = _aligned(cache, torch.arange(len(rows), device=self.device), padding)
        places = torch.tensor([prefix.length + len(row) for row in rows], device=self.device)
        def step(tokens: Tensor, number: int) -> Tensor:
            mask = (torch.arange(cache.get_seq_length() + 1, device=self.device) >= padding[:, None]).long()
            return self._forward(tokens[:, None], cache, range(len(rows)), [0] * len(rows), exact=True, mask=mask,
                                 positions=(places + number)[:, None]).float()

        return self._say(logits, step, longest, ends)

    @staticmethod
    def _say(logits: Tensor, step: Callable[[Tensor, int], Tensor], longest: int, ends: set[int]) -> list[list[int]]:
        """`greedy` from the first logits on; ``step`` takes the tokens chosen, and its own number, to the next logits."""
        said: list[list[int]] = [[] for _ in logits]
        done: set[int] = set()
        for number in range(longest):
            damaged = (~torch.isfinite(logits.logsumexp(dim=1))).nonzero()[:, 0].tolist()
            if wrong := [row for row in damaged if row not in done]:
                raise FloatingPointError(wrong[0])
            tokens = logits.argmax(dim=1)
            for row, token in enumerate(tokens.tolist()):
                done.update({row} if token in ends else ())
                said[row] += [token] if row not in done else []
            if len(done) == len(said) or number == longest - 1:
                break
            logits = step(tokens, number)
        return said

    def _padded(self, rows: Rows) -> Tensor:
        """Right-padded ids, shape ``(rows, longest)``; what pads does not matter, since nothing looks at it."""
        width = max(map(len, rows))
        return torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], device=self.device)

    def _forward(self, inputs: Tensor, cache: "DynamicCache", rows: Sequence[int], positions_read: Sequence[int],
                 exact: bool = False, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Logits at the places read, shape ``(reads, vocabulary)``; the cache grows by the inputs."""
        self.head.read = (torch.tensor(list(rows), device=self.device), torch.tensor(list(positions_read), device=self.device))
        self.head.exact = exact
        with torch.no_grad():  # not inference_mode: weights that are gathered meanwhile may later be trained
            output = self._run(lambda: self.model(input_ids=inputs, attention_mask=mask, position_ids=positions,
                                                  past_key_values=cache, use_cache=True))
        logits: Tensor = output.logits[0]
        return logits
