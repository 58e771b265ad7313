"""TruthfulQA (Lin et al., 2021, arXiv 2109.07958): the questions about health, nutrition, psychology and science, by letter.

The right choice of ``mc1`` stands first in every published item: choices are shuffled by the seed and the question's text.
"""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.errors import UserError
from biomistral.records import Question
from biomistral.seeds import seed

TASKS = ("truthfulqa",)
CATEGORIES = ("Health", "Nutrition", "Psychology", "Science")


def recognises(file: DataFile) -> bool:
    """The multiple-choice items, or the table that says their categories."""
    return "mc1_targets" in file.first or _is_table(file)


def _is_table(file: DataFile) -> bool:
    return bool({name.lower() for name in file.first} >= {"category", "question"})


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Questions of the four categories; the others are not this suite's.

    Raises:
        UserError: the table of categories is missing.
    """
    category = _categories([file for file in files if _is_table(file)])
    for file in (file for file in files if "mc1_targets" in file.first):
        if not category:
            raise UserError(f"{file.path}: does not say what its questions are about; give TruthfulQA.csv (or the hub's "
                            "'generation' table) too")
        for number, (place, row) in enumerate(file.rows()):
            about = category.get(str(row["question"]).strip())
            if about is None:
                yield Refusal(place, "the table of categories does not have this question")
            elif about in CATEGORIES:
                yield attempt(place, partial(_question, row, number, about, root, place))


def _categories(tables: list[DataFile]) -> dict[str, str]:
    """What each question is about; the columns' names are capitalised in the release, not on the hub."""
    rows = [{name.lower(): value for name, value in row.items()} for table in tables for _, row in table.rows()]
    return {row["question"].strip(): row["category"] for row in rows}


def _question(row: Row, number: int, category: str, root: int, place: str) -> Question | Refusal:
    choices = _choices(row["mc1_targets"])
    if sum(label for _, label in choices) != 1:
        return Refusal(place, f"{sum(label for _, label in choices)} of its mc1 choices are marked right, not one")
    random.Random(seed(root, "truthfulqa", "shuffle", str(row["question"]))).shuffle(choices)
    labels = [label for _, label in choices]
    return Draft("truthfulqa", "test", str(number), str(row["question"]), [text for text, _ in choices], labels.index(1),
                 meta={"category": category, **_graded(row)}).question(place)


def _graded(row: Row) -> dict[str, Any]:
    """The true and false answers of ``mc2``, of which several may be true."""
    return {"mc2": {text.strip(): bool(label) for text, label in _choices(row["mc2_targets"])}} if row.get("mc2_targets") else {}


def _choices(targets: dict[str, Any]) -> list[tuple[str, int]]:
    """Texts with 1 for right, of an object by text or of two lists; five items have a wrong choice without any text, left out."""
    by_lists = targets.keys() == {"choices", "labels"}
    pairs = zip(targets["choices"], targets["labels"], strict=True) if by_lists else targets.items()
    return [(str(text), int(label)) for text, label in pairs if str(text).strip() or int(label)]
