"""Examples for fine-tuning, tokenised and packed as isolated segments without any padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.seeds import seed
from biomistral.training.batch import IGNORE, Block
from biomistral.training.chat import render
from biomistral.training.examples import Example, read_examples
from biomistral.training.order import permutation

_TOKENISE_AT_ONCE = 1024


@dataclass(frozen=True)
class Tokenised:
    """Tokens of an example, int64; which of them are the answer's, bool; and the UTF-8 bytes of answer and of all."""

    tokens: np.ndarray
    answer: np.ndarray
    example: Example
    answer_bytes: int
    text_bytes: int


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text."""
    ids = tokenizer("a").input_ids
    return [tokenizer.bos_token_id] if ids and ids[0] == tokenizer.bos_token_id else []


def tokenise(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenised]:
    """Examples as at inference: what stands before an answer has the tokens it has by itself, then come the answer's.

    All is tokenised jointly; where that changes the tokens of what stands before, which inference will see, the answer is
    tokenised apart. A prompt begins with BOS if the tokenizer adds it by default, and EOS ends its completion; a
    conversation has both only where the chat template puts them.

    Raises:
        UserError: the tokenizer has no EOS; an answer has no tokens; see `chat.render`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no EOS token to end a completion with; set eos_token in "
                        "tokenizer_config.json")
    before = _bos(tokenizer)
    for start in range(0, len(examples), _TOKENISE_AT_ONCE):
        part = examples[start:start + _TOKENISE_AT_ONCE]
        pieces = [_pieces(example, tokenizer) for example in part]
        grown = ["".join(text for text, _ in texts[:count]) for texts in pieces for count in range(1, len(texts) + 1)]
        ids = iter(_ids_of(grown, tokenizer))
        for example, texts in zip(part, pieces, strict=True):
            yield _join(example, texts, [next(ids) for _ in texts], tokenizer, before)


def _pieces(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is the answer's."""
    return render(example, tokenizer) if example.messages else [(example.prompt, False), (example.completion, True)]


def _ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
    return ids


def _join(example: Example, pieces: list[tuple[str, bool]], grown: list[list[int]], tokenizer: PreTrainedTokenizerBase,
          before: list[int]) -> Tokenised:
    """Put an example's tokens together; ``grown`` are the ids of its first piece, of its first two, and so on."""
    tokens: list[int] = []
    answer: list[bool] = []
    for (text, is_answer), whole in zip(pieces, grown, strict=True):
        joint = whole[:len(tokens)] == tokens and len(whole) > len(tokens)
        added = whole[len(tokens):] if joint else _ids_of([text], tokenizer)[0]
        if is_answer and not added:
            raise UserError(f"{example.place}: the answer of example {example.id!r} has no tokens in this model's vocabulary")
        tokens += added
        answer += _written(added, tokenizer.eos_token_id) if is_answer else [False] * len(added)
    if not example.messages:
        start = [] if tokens[:1] == before else before
        end = [] if tokens[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
        tokens, answer = [*start, *tokens, *end], [*([False] * len(start)), *answer, *([True] * len(end))]
    sizes = [len(text.encode()) for text, _ in pieces]
    answer_bytes = sum(size for size, (_, is_answer) in zip(sizes, pieces, strict=True) if is_answer)
    return Tokenised(np.array(tokens, dtype=np.int64), np.array(answer), example, answer_bytes, sum(sizes))


def _written(ids: list[int], eos: int) -> list[bool]:
    """Which tokens of an answer the model writes: up to its EOS; what a template puts behind that is never generated."""
    last = max((place for place, token in enumerate(ids) if token == eos), default=len(ids) - 1)
    return [place <= last for place in range(len(ids))]


class SupervisedBlocks:
    """Examples packed, in an order that is a function of the seed, into blocks of at most ``sequence_length`` tokens.

    Every example is a segment of its own. ``full_text`` takes the loss on the prompt too (the paper's training).
    ``dropped`` counts examples longer than a block, if they are to be left out.

    Raises:
        UserError: an example is too long and ``too_long`` is ``refuse``, or none is left.
    """

    def __init__(self, paths: Path | Sequence[Path], tokenizer: PreTrainedTokenizerBase, sequence_length: int, root: int,
                 full_text: bool = False, too_long: str = "refuse") -> None:
        paths = [paths] if isinstance(paths, Path) else list(paths)
        examples = [example for path in paths for example in read_examples(path)]
        kept, self.dropped = [], 0
        for item in tokenise(examples, tokenizer):
            if len(item.tokens) <= sequence_length:
                kept.append(item)
            elif too_long == "drop":
                self.dropped += 1
            else:
                raise UserError(f"{item.example.place}: example {item.example.id!r} has {len(item.tokens)} tokens, a sequence "
                                f"{sequence_length}; raise sequence_length, or leave such examples out with too_long: drop")
        if not kept:
            raise UserError(f"{paths[0]}: every example is longer than sequence_length {sequence_length}; raise it")
        shuffled = [kept[index] for index in permutation(seed(root, "packing"), len(kept))]
        self._full_text, self._groups = full_text, list(_pack(shuffled, sequence_length))
        self.num_examples, self.num_tokens = len(kept), sum(len(item.tokens) for item in kept)
        num_bytes = sum(item.text_bytes if full_text else item.answer_bytes for item in kept)
        self.tokens_per_byte = sum(self[index].num_predicted for index in range(len(self))) / max(1, num_bytes)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Block:
        group = self._groups[index]
        segments = [segment(item, self._full_text) for item in group]
        return Block(np.concatenate([tokens for tokens, _ in segments]), np.concatenate([labels for _, labels in segments]),
                     tuple(len(item.tokens) for item in group), tuple(item.example.id for item in group))


def _pack(items: list[Tokenised], sequence_length: int) -> Iterator[list[Tokenised]]:
    """Fill a block until the next example does not fit; blocks are laid end to end, so what is left open costs nothing."""
    group: list[Tokenised] = []
    room = sequence_length
    for item in items:
        if len(item.tokens) > room:
            yield group
            group, room = [], sequence_length
        group.append(item)
        room -= len(item.tokens)
    yield group


def segment(item: Tokenised, full_text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of an example and their labels: the next token where it is the answer's (or everywhere), else `IGNORE`."""
    labels = np.full(len(item.tokens), IGNORE)
    wanted = item.answer[1:] | full_text
    labels[:-1][wanted] = item.tokens[1:][wanted]
    return item.tokens, labels
