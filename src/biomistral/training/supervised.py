"""Prompts and completions for fine-tuning: read, tokenised, and packed as isolated segments without any padding."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.seeds import seed
from biomistral.training.batch import IGNORE, Block
from biomistral.training.order import permutation

_TOKENISE_AT_ONCE = 1024


@dataclass(frozen=True)
class Example:
    """What the model is shown, what it is to answer, and where that stands."""

    prompt: str
    completion: str
    id: str
    place: str


def find_examples(path: Path) -> Path:
    """The JSONL file itself, or the ``train.jsonl`` of a benchmark folder.

    Raises:
        UserError: the folder has none.
    """
    if not path.is_dir():
        return path
    if not (path / "train.jsonl").is_file():
        raise UserError(f"{path}: has no train.jsonl to fine-tune on; give a benchmark built with training text, or a JSONL "
                        "file of prompt, completion, id")
    return path / "train.jsonl"


def read_examples(path: Path) -> list[Example]:
    """Read examples, one JSON object ``{"prompt", "completion", "id"}`` a line; other keys are left alone.

    Raises:
        UserError: the file is empty or not UTF-8, or a line is malformed (the message names file and line).
    """
    examples: list[Example] = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                examples.append(_parse_example(line, f"{path}:{number}"))
    if not examples:
        raise UserError(f"{path}: holds no examples")
    return examples


def _parse_example(line: bytes, place: str) -> Example:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: not a line of JSON in UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON object with prompt and completion was expected, this is a {type(row).__name__}")
    for name in ("prompt", "completion"):
        if not isinstance(row.get(name), str):
            raise UserError(f"{place}: '{name}' is {'missing' if name not in row else 'not a text'}")
    if not row["completion"].strip():
        raise UserError(f"{place}: the completion is empty")
    return Example(row["prompt"], row["completion"], str(row.get("id", place.rpartition(":")[2])), place)


@dataclass(frozen=True)
class Tokenised:
    """Tokens of an example, int64, and how many of them are the prompt's."""

    tokens: np.ndarray
    num_prompt: int
    example: Example


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text."""
    ids = tokenizer("a").input_ids
    return [tokenizer.bos_token_id] if ids and ids[0] == tokenizer.bos_token_id else []


def tokenise(examples: list[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenised]:
    """Prompt and completion as at inference: the prompt's tokens are those of the prompt alone, then come the completion's.

    Both are tokenised jointly; where that changes the prompt's own tokens, which inference will see, they are tokenised
    apart. BOS only if the tokenizer adds it by default; EOS always ends the completion.

    Raises:
        UserError: the tokenizer has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no EOS token to end a completion with; set eos_token in "
                        "tokenizer_config.json")
    before, end = _bos(tokenizer), [tokenizer.eos_token_id]

    def ids_of(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
        return ids

    for start in range(0, len(examples), _TOKENISE_AT_ONCE):
        part = examples[start:start + _TOKENISE_AT_ONCE]
        prompts = ids_of([example.prompt for example in part])
        wholes = ids_of([example.prompt + example.completion for example in part])
        for example, prompt, whole in zip(part, prompts, wholes, strict=True):
            joint = whole[:len(prompt)] == prompt and len(whole) > len(prompt)
            completion = whole[len(prompt):] if joint else ids_of([example.completion])[0]
            start_ids = [] if prompt[:1] == before else before
            tokens = np.array([*start_ids, *prompt, *completion, *end], dtype=np.int64)
            yield Tokenised(tokens, len(start_ids) + len(prompt), example)


class SupervisedBlocks:
    """Examples packed, in an order that is a function of the seed, into blocks of at most ``sequence_length`` tokens.

    Every example is a segment of its own. ``full_text`` takes the loss on the prompt too (the paper's training).
    ``dropped`` counts examples longer than a block, if they are to be left out.

    Raises:
        UserError: an example is too long and ``too_long`` is ``refuse``, or none is left.
    """

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase, sequence_length: int, root: int,
                 full_text: bool = False, too_long: str = "refuse") -> None:
        kept, self.dropped = [], 0
        for item in tokenise(read_examples(path), tokenizer):
            if len(item.tokens) <= sequence_length:
                kept.append(item)
            elif too_long == "drop":
                self.dropped += 1
            else:
                raise UserError(f"{item.example.place}: example {item.example.id!r} has {len(item.tokens)} tokens, a sequence "
                                f"{sequence_length}; raise sequence_length, or leave such examples out with too_long: drop")
        if not kept:
            raise UserError(f"{path}: every example is longer than sequence_length {sequence_length}; raise it")
        shuffled = [kept[index] for index in permutation(seed(root, "packing"), len(kept))]
        self._full_text, self._groups = full_text, list(_pack(shuffled, sequence_length))
        self.num_examples, self.num_tokens = len(kept), sum(len(item.tokens) for item in kept)
        texts = (item.example.prompt + item.example.completion if full_text else item.example.completion for item in kept)
        predicted = sum(self[index].num_predicted for index in range(len(self)))
        self.tokens_per_byte = predicted / max(1, sum(len(text.encode()) for text in texts))

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Block:
        group = self._groups[index]
        labels = np.concatenate([_labels(item, self._full_text) for item in group])
        return Block(np.concatenate([item.tokens for item in group]), labels, tuple(len(item.tokens) for item in group),
                     tuple(item.example.id for item in group))


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


def _labels(item: Tokenised, full_text: bool) -> np.ndarray:
    labels: np.ndarray = np.append(item.tokens[1:], IGNORE)
    if not full_text:
        labels[:max(0, item.num_prompt - 1)] = IGNORE
    return labels
