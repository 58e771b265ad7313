"""Examples for fine-tuning, tokenised and packed as isolated segments without any padding."""

from array import array
from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.progress import track
from biomistral.seeds import seed
from biomistral.training.data.batch import Block
from biomistral.training.data.order import permutation
from biomistral.training.data.sources import Examples
from biomistral.training.data.tokenised import Tokenised, labels_of, tokenise


class _Flat:
    """Rows of different lengths end to end in one buffer: a million rows cost their content and 8 bytes each."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype, self._held, self._ends = dtype, bytearray(), array("q", [0])

    def add(self, row: np.ndarray) -> None:
        self._held += row.astype(self._dtype).tobytes()
        self._ends.append(self._ends[-1] + len(row))

    def close(self) -> None:
        """No row is added after this: the buffer is read in place."""
        self._rows = np.frombuffer(self._held, self._dtype)
        self.ends = np.frombuffer(self._ends, np.int64)

    def __getitem__(self, index: int) -> np.ndarray:
        row: np.ndarray = self._rows[self.ends[index]:self.ends[index + 1]]
        return row


class SupervisedBlocks:
    """Examples packed, in an order that is a function of the seed, into blocks of at most ``sequence_length`` tokens.

    Every example is a segment of its own. ``full_text`` takes the loss on the prompt too (the paper's training).
    ``dropped`` counts examples longer than a block, if they are to be left out; ``left_out`` see `Examples`. What is kept of
    an example is 3 bytes a token (5 where the vocabulary has more than 65,536) and its id.

    Raises:
        UserError: an example is too long and ``too_long`` is ``refuse``, or none is left.
    """

    def __init__(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, sequence_length: int, root: int,
                 full_text: bool = False, too_long: str = "refuse") -> None:
        self._tokens = _Flat(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
        self._answer, self._names = _Flat(np.bool_), _Flat(np.uint8)
        self._full_text, self.dropped = full_text, 0
        num_predicted = num_bytes = 0
        for item in tokenise(track(examples, "reading examples", examples.total), tokenizer):
            if len(item.tokens) <= sequence_length:
                self._keep(item)
                num_predicted += len(item.tokens) - 1 if full_text else int(item.answer[1:].sum())
                num_bytes += item.text_bytes if full_text else item.answer_bytes
            elif too_long == "drop":
                self.dropped += 1
            else:
                raise UserError(f"{item.example.place}: example {item.example.id!r} has {len(item.tokens)} tokens, a sequence "
                                f"{sequence_length}; raise sequence_length, or leave such examples out with too_long: drop")
        for column in (self._tokens, self._answer, self._names):
            column.close()
        self.left_out, self.num_examples = examples.left_out, len(self._tokens.ends) - 1
        if not self.num_examples:
            raise UserError(f"{examples}: " + (f"every example is longer than sequence_length {sequence_length}; raise it"
                                               if self.dropped else "every question is asked in the test or for validation too"))
        self.num_tokens, self.tokens_per_byte = int(self._tokens.ends[-1]), num_predicted / max(1, num_bytes)
        self._order = permutation(seed(root, "packing"), self.num_examples)
        self._firsts = np.array(list(_cuts(np.diff(self._tokens.ends)[self._order].tolist(), sequence_length)))

    def _keep(self, item: Tokenised) -> None:
        self._tokens.add(item.tokens)
        self._answer.add(item.answer)
        self._names.add(np.frombuffer(item.example.id.encode("utf-8", "surrogatepass"), np.uint8))

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, index: int) -> Block:
        members = self._order[self._firsts[index]:self._firsts[index + 1]].tolist()
        tokens: list[np.ndarray] = [self._tokens[member].astype(np.int64) for member in members]
        labels = [labels_of(own, self._answer[member], self._full_text) for own, member in zip(tokens, members, strict=True)]
        return Block(np.concatenate(tokens), np.concatenate(labels), tuple(map(len, tokens)),
                     tuple(self._names[member].tobytes().decode("utf-8", "surrogatepass") for member in members))


def _cuts(lengths: list[int], sequence_length: int) -> Iterator[int]:
    """Where blocks begin and the last ends: a block is filled until the next example does not fit. Blocks are laid end to
    end, so what is left open costs nothing."""
    yield 0
    room = sequence_length
    for number, length in enumerate(lengths):
        if length > room:
            yield number
            room = sequence_length
        room -= length
    yield len(lengths)
