"""Examples as tokens, each with whether it belongs to the answer: what inference shows, then what the model is to write."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.training.data.batch import IGNORE
from biomistral.training.data.chat import render
from biomistral.training.data.jsonl import Example

_AT_ONCE = 1024
_CONTEXT = 32
"""Characters before a piece that decide how it is tokenised; more would only be tokenised twice."""


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


def tokenise(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenised]:
    """Examples as at inference: what stands before an answer has the tokens it has by itself, then come the answer's.

    An answer is tokenised together with the words before it; where that changes their tokens, which inference will see, it is
    tokenised apart. A prompt begins with BOS if the tokenizer adds it by default, and EOS ends its completion; a
    conversation has both only where the chat template puts them.

    Raises:
        UserError: the tokenizer has no EOS; an answer has no tokens; see `chat.render`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no EOS token to end a completion with; set eos_token in "
                        "tokenizer_config.json")
    before = _bos(tokenizer)
    rest = iter(examples)
    while part := list(islice(rest, _AT_ONCE)):
        pieces = [_pieces(example, tokenizer) for example in part]
        wanted = [text for texts in pieces for text in _wanted(texts)]
        ids = iter(_ids_of(wanted, tokenizer))
        for example, texts in zip(part, pieces, strict=True):
            yield _join(example, texts, [(next(ids), next(ids)) for _ in texts], tokenizer, before)


def _pieces(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is the answer's."""
    return render(example, tokenizer) if example.messages else [(example.prompt, False), (example.completion, True)]


def _wanted(pieces: list[tuple[str, bool]]) -> Iterator[str]:
    """For each piece the end of what stands before it, and the piece behind that."""
    before = ""
    for text, _ in pieces:
        start = max(0, len(before) - _CONTEXT)
        if start:  # begin with a word, or where there is none
            start = next((place for place in range(start, max(0, start - _CONTEXT), -1) if before[place].isspace()), start)
        yield before[start:]
        yield before[start:] + text
        before += text


def _ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids without special tokens; straight from the tokenizers library, which takes half the time of the call around it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        slow: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
        return slow
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _join(example: Example, pieces: list[tuple[str, bool]], ids: list[tuple[list[int], list[int]]],
          tokenizer: PreTrainedTokenizerBase, before: list[int]) -> Tokenised:
    """Put an example's tokens together; ``ids`` are those of `_wanted`, piece by piece."""
    tokens: list[int] = []
    answer: list[bool] = []
    for (text, is_answer), (context, both) in zip(pieces, ids, strict=True):
        joint = both[:len(context)] == context and len(both) > len(context)
        added = both[len(context):] if joint else _ids_of([text], tokenizer)[0]
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


def labels_of(tokens: np.ndarray, answer: np.ndarray, full_text: bool) -> np.ndarray:
    """Labels of an example's tokens: the next token where it is the answer's (or everywhere), else `IGNORE`."""
    labels = np.full(len(tokens), IGNORE)
    wanted = answer[1:] | full_text
    labels[:-1][wanted] = tokens[1:][wanted]
    return labels
