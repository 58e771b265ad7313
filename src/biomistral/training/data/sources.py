"""Where fine-tuning's examples come from: JSONL files, benchmarks' training text, benchmarks' questions; none is kept."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from biomistral import ranks
from biomistral.errors import UserError
from biomistral.progress import log
from biomistral.training.data.jsonl import Example, read_examples
from biomistral.training.data.questions import TRAIN, Benchmarks, Choice

_READ_AT_ONCE = 1 << 22


def examples_file(place: Path) -> Path | None:
    """The JSONL file of examples that an input is: itself, or the ``train.jsonl`` of a benchmark folder; None: it is not one.

    Raises:
        UserError: the folder is no benchmark, or the file is not there.
    """
    if place.is_dir():
        if (place / "train.jsonl").is_file():
            return place / "train.jsonl"
        if (place / "questions.parquet").is_file():
            return None
        raise UserError(f"{place}: has neither a train.jsonl nor questions.parquet to fine-tune on; give a benchmark folder, a "
                        "questions file (.parquet, .jsonl), or a JSONL file of prompt and completion, or of messages")
    return None if place.suffix == ".parquet" or _holds_questions(place) else place


def questions_file(place: Path) -> Path | None:
    """The questions file that an input is, or the ``questions.parquet`` of a benchmark folder without training text."""
    if examples_file(place) is not None:
        return None
    return place / "questions.parquet" if place.is_dir() else place


def _holds_questions(path: Path) -> bool:
    """Whether the first line of a JSONL file is a question: told by its fields."""
    try:
        with path.open("rb") as stream:
            line = next((line for line in stream if line.strip()), b"")
        row = json.loads(line.decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False  # said with its line when it is read as examples
    return isinstance(row, dict) and {"stem", "options"} <= row.keys()


class Examples:
    """All examples of several inputs, in their order, read anew each time they are gone through.

    Questions are taken by ``choice``. Never those that a test split of these benchmarks has too, nor those of the ``asked``
    (file, split) pairs or their files' tests: ``left_out`` counts them once the examples have been gone through; ``total`` is
    the number of all.

    Raises:
        UserError: an input is not there or holds neither; ``choice`` names what there is not, or changes nothing.
    """

    def __init__(self, places: Path | Sequence[Path], choice: Choice = TRAIN,
                 asked: Collection[tuple[Path, str]] = ()) -> None:
        self._places = [places] if isinstance(places, Path) else list(places)
        self._choice, self.left_out = choice, 0
        files = [file for place in self._places if (file := questions_file(place)) is not None]
        if not files and (choice.tasks or choice.split != "train"):
            what = f"tasks {', '.join(choice.tasks)}" if choice.tasks else f"split '{choice.split}'"
            raise UserError(f"{self._places[0]}: {what}: chooses among a benchmark's questions, and this is training text; leave "
                            "it out, or give the questions.parquet itself")
        beside = [place / "questions.parquet" for place in self._places if (place / "questions.parquet").is_file()]
        self._benchmarks = Benchmarks([*files, *beside, *(file for file, _ in asked)], asked, len(files) < len(self._places))
        if files:
            self._benchmarks.check(files, choice)
        self.total = sum(self._count(place) for place in self._places)

    def __str__(self) -> str:
        return " and ".join(map(str, self._places))

    def _count(self, place: Path) -> int:
        file = questions_file(place)
        return _num_lines(examples_file(place) or place) if file is None else self._benchmarks.num_chosen(file, self._choice)

    def __iter__(self) -> Iterator[Example]:
        self.left_out = 0
        for place in self._places:
            before = self.left_out
            for example in self._of(place):
                if example is None:
                    self.left_out += 1
                else:
                    yield example
            if (left_out := self.left_out - before) and ranks.leads():
                log.warning("%s: %d of the %d examples are asked in the test or for validation too; left out of training", place,
                            left_out, self._count(place))

    def _of(self, place: Path) -> Iterator[Example | None]:
        """An input's examples; None stands for one that is left out."""
        if (path := examples_file(place)) is not None:
            for example in read_examples(path):
                yield None if self._benchmarks.guards(example) else example
        elif (path := questions_file(place)) is not None:
            yield from self._benchmarks.examples(path, self._choice)


def _num_lines(path: Path) -> int:
    """About how many examples a file has, for those who wait."""
    with path.open("rb") as stream:
        return sum(part.count(b"\n") for part in iter(lambda: stream.read(_READ_AT_ONCE), b""))
