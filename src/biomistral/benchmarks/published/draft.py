"""What a reader takes out of one row, and how it becomes a question or a refusal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomistral.records import LETTERS, Question


@dataclass(frozen=True)
class Refusal:
    """A row that gives no question: where it stands, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class Draft:
    """A row as its layout has it. ``answer`` is the right option's place, from 0; ``name`` is unique in its task."""

    task: str
    split: str
    name: str
    stem: str
    options: Sequence[str]
    answer: int
    context: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    language: str = "en"

    def question(self, place: str) -> Question | Refusal:
        """The question, if it is sound."""
        options = tuple(option.strip() for option in self.options)
        if not self.stem.strip():
            return Refusal(place, "the stem is empty")
        if len(options) < 2 or len(options) > len(LETTERS):
            return Refusal(place, f"{len(options)} options; 2 to {len(LETTERS)} can be asked")
        if "" in options:
            return Refusal(place, f"option {LETTERS[options.index('')]} is empty")
        if not 0 <= self.answer < len(options):
            return Refusal(place, "no right option is marked")
        return Question(id=f"{self.task}/{self.name}", task=self.task, split=self.split, stem=self.stem.strip(), options=options,
                        answer=LETTERS[self.answer], context=self.context or None, meta=self.meta, language=self.language)


def attempt(place: str, make: Callable[[], Question | Refusal]) -> Question | Refusal:
    """What ``make`` takes out of a row; a row that its layout does not fit is refused by what is wrong with it."""
    try:
        return make()
    except KeyError as error:
        return Refusal(place, f"field {error} is missing")
    except (TypeError, ValueError) as error:
        return Refusal(place, f"a field does not hold what its layout says ({error})")
