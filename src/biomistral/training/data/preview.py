"""What fine-tuning will be shown, before any of it: examples as the model sees them, with the tokens it is to write marked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer
from biomistral.progress import track
from biomistral.training.data.batch import IGNORE
from biomistral.training.data.questions import TRAIN, Choice
from biomistral.training.data.sources import Examples
from biomistral.training.data.tokenised import Tokenised, labels_of, tokenise

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
    num_left_out: int
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


def preview(model: Path, places: Sequence[Path], sequence_length: int, count: int = 3, full_text: bool = False,
            choice: Choice = TRAIN) -> Preview:
    """Tokenise all examples as `finetune` does and decode ``count`` of them. The model's weights are not read.

    Raises:
        UserError: what `finetune` would refuse of them, but for their length.
    """
    if count < 1:
        raise UserError(f"--samples {count}: at least 1")
    tokenizer, examples = load_tokenizer(model), Examples(places, choice)
    lengths, num_predicted, longest = [], 0, (0, "")
    for item in tokenise(track(examples, "reading examples", examples.total), tokenizer):
        lengths.append(len(item.tokens))
        num_predicted += int(_predicted(item, full_text).sum())
        if len(item.tokens) > longest[0]:
            longest = len(item.tokens), item.example.place
    if not lengths:
        raise UserError(f"{examples}: every question is asked in the test or for validation too")
    chosen = {round(place) for place in np.linspace(0, len(lengths) - 1, min(count, len(lengths)))}
    shown = tokenise((example for number, example in enumerate(examples) if number in chosen), tokenizer)
    return Preview(tuple(_sample(item, tokenizer, sequence_length, full_text) for item in shown), len(lengths), examples.left_out,
                   sum(lengths), num_predicted, float(np.median(lengths)), *longest, sequence_length,
                   sum(length > sequence_length for length in lengths))


def _predicted(item: Tokenised, full_text: bool) -> np.ndarray:
    """Which tokens the loss is taken on: the label of a position is the token after it."""
    found: np.ndarray = np.append(False, labels_of(item.tokens, item.answer, full_text)[:-1] != IGNORE)
    return found


def _sample(item: Tokenised, tokenizer: PreTrainedTokenizerBase, sequence_length: int, full_text: bool) -> Sample:
    predicted, num_tokens = _predicted(item, full_text), len(item.tokens)
    return Sample(item.example.id, item.example.place, num_tokens, int(predicted.sum()), num_tokens <= sequence_length,
                  tuple(_decoded(item.tokens, predicted, tokenizer)))


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
    if found.num_left_out:
        lines.append(f"left out: {found.num_left_out} questions that the test asks too")
    return "\n".join(lines)


def _printable(sample: Sample) -> list[tuple[str, bool]]:
    """The pieces without a terminal's commands: the text is anyone's."""
    return [(text.replace("\x1b", "\u241b"), answer) for text, answer in sample.pieces]


def _fate(too_long: str) -> str:
    return "left out" if too_long == "drop" else "refused before training (raise sequence_length, or --too-long drop)"
