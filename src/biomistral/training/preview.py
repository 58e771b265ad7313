"""What fine-tuning will be shown, before any of it: examples as the model sees them, with the tokens it is to write marked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer
from biomistral.training.batch import IGNORE
from biomistral.training.examples import find_examples, read_examples
from biomistral.training.supervised import Tokenised, segment, tokenise

MARKS = ("⟦", "⟧")
COLOURS = ("\x1b[1;32m", "\x1b[0m")


@dataclass(frozen=True)
class Sample:
    """One example: its decoded text in pieces, each with whether the loss is taken on it."""

    id: str
    place: str
    num_tokens: int
    num_predicted: int
    fits: bool
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Preview:
    """A few samples, evenly spread over the files, and the account of all examples, in tokens."""

    samples: tuple[Sample, ...]
    num_examples: int
    num_tokens: int
    num_predicted: int
    median: float
    longest: int
    longest_place: str
    sequence_length: int
    num_too_long: int

    def as_data(self) -> dict[str, object]:
        """The preview as plain data."""
        return asdict(self)


def preview(model: Path, files: Sequence[Path], sequence_length: int, count: int = 3, full_text: bool = False) -> Preview:
    """Tokenise all examples as `finetune` does and decode ``count`` of them. The model's weights are not read.

    Raises:
        UserError: what `finetune` would refuse of them, but for their length.
    """
    if count < 1:
        raise UserError(f"--samples {count}: at least 1")
    tokenizer = load_tokenizer(model)
    examples = [example for file in files for example in read_examples(find_examples(file))]
    items = list(tokenise(examples, tokenizer))
    lengths = np.array([len(item.tokens) for item in items])
    longest = int(lengths.argmax())
    chosen = sorted({round(place) for place in np.linspace(0, len(items) - 1, min(count, len(items)))})
    return Preview(tuple(_sample(items[index], tokenizer, sequence_length, full_text) for index in chosen), len(items),
                   int(lengths.sum()), sum(_num_predicted(item, full_text) for item in items), float(np.median(lengths)),
                   int(lengths[longest]), items[longest].example.place, sequence_length, int((lengths > sequence_length).sum()))


def _num_predicted(item: Tokenised, full_text: bool) -> int:
    return int((segment(item, full_text)[1] != IGNORE).sum())


def _sample(item: Tokenised, tokenizer: PreTrainedTokenizerBase, sequence_length: int, full_text: bool) -> Sample:
    tokens, labels = segment(item, full_text)
    predicted: np.ndarray = np.append(False, labels[:-1] != IGNORE)  # the label of a position is the token after it
    return Sample(item.example.id, item.example.place, len(tokens), int(predicted.sum()), len(tokens) <= sequence_length,
                  tuple(_decoded(tokens, predicted, tokenizer)))


def _decoded(tokens: np.ndarray, predicted: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """Runs of tokens with and without loss, decoded as what each adds to the text before it (some tokenizers drop a space
    that begins a text)."""
    cuts = [*np.flatnonzero(np.diff(predicted)) + 1, len(tokens)]
    pieces, done = [], ""
    start = 0
    for cut in cuts:
        text = tokenizer.decode(tokens[:cut], skip_special_tokens=False)
        if not text.startswith(done):  # a run ends inside a character of several bytes
            text = done + tokenizer.decode(tokens[start:cut], skip_special_tokens=False)
        pieces.append((text.removeprefix(done), bool(predicted[start])))
        start, done = cut, text
    return pieces


def render(found: Preview, colour: bool, too_long: str = "refuse") -> str:
    """The preview for a reader; what the loss is taken on stands in ``⟦⟧``, and in green on a terminal."""
    opening, closing = (MARKS[0] + COLOURS[0], COLOURS[1] + MARKS[1]) if colour else MARKS
    lines = []
    for sample in found.samples:
        fate = "" if sample.fits else f", longer than a sequence of {found.sequence_length}: {_fate(too_long)}"
        text = "".join(f"{opening}{text}{closing}" if answer else text for text, answer in _printable(sample))
        lines += [f"--- {sample.id} ({sample.place}): {sample.num_tokens} tokens, loss on {sample.num_predicted}{fate}",
                  text.rstrip("\n"), ""]
    share = 100 * found.num_predicted / found.num_tokens
    lines += [f"{found.num_examples} examples, {found.num_tokens:,} tokens, loss on {found.num_predicted:,} ({share:.1f} %), "
              f"marked {MARKS[0]}{MARKS[1]}",
              f"tokens an example: median {found.median:g}, most {found.longest} ({found.longest_place})",
              f"longer than a sequence of {found.sequence_length}: {found.num_too_long}"
              + (f", {_fate(too_long)}" if found.num_too_long else "; nothing is ever cut off")]
    return "\n".join(lines)


def _printable(sample: Sample) -> list[tuple[str, bool]]:
    """The pieces without a terminal's commands: the text is anyone's."""
    return [(text.replace("\x1b", "\u241b"), answer) for text, answer in sample.pieces]


def _fate(too_long: str) -> str:
    return "left out" if too_long == "drop" else "refused before training (raise sequence_length, or --too-long drop)"
