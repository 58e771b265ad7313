"""PubMedQA (Jin et al., 2019, arXiv 1909.06146): a question, an abstract without its conclusion, yes, no or maybe.

The 1,000 labelled questions (PQA-L) come without a split: the official test ids choose 500, the rest is validation. A file
that holds none of these ids is the artificial set (PQA-A): train.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import KEY, VALUE, DataFile, Row
from biomistral.errors import UserError
from biomistral.records import Question

TASKS = ("pubmedqa",)
OPTIONS = ("yes", "no", "maybe")


def recognises(file: DataFile) -> bool:
    """The released records by PubMed id, the hub's columns, or the official test ids with their answers."""
    fields = file.first.keys()
    return (fields >= {KEY, "QUESTION", "CONTEXTS", "final_decision"} or fields >= {"pubid", "context", "final_decision"}
            or _is_ids(file))


def _is_ids(file: DataFile) -> bool:
    return file.first.keys() == {KEY, VALUE} and file.first[VALUE] in OPTIONS


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """``root`` decides nothing here.

    Raises:
        UserError: the official test ids are missing.
    """
    official: dict[str, str] = {row[KEY]: row[VALUE] for file in files if _is_ids(file) for _, row in file.rows()}
    for file in (file for file in files if not _is_ids(file)):
        if not official:
            raise UserError(f"{file.path}: PubMedQA's questions come without a split; give its test_ground_truth.json too, which "
                            "names the official test questions")
        labelled = any(_id(row) in official for _, row in file.rows())
        for place, row in file.rows():
            name = _id(row)
            split = "train" if not labelled else "test" if name in official else "validation"
            yield attempt(place, partial(_question, row, name, split, official.get(name), place))


def _id(row: Row) -> str:
    return str(row[KEY] if KEY in row else row.get("pubid"))


def _question(row: Row, name: str, split: str, official: str | None, place: str) -> Question | Refusal:
    stem = str(row["QUESTION"] if "QUESTION" in row else row["question"])
    contexts: Any = row["CONTEXTS"] if "CONTEXTS" in row else row["context"]["contexts"]
    decision = row["final_decision"]
    if official is not None and decision != official:
        return Refusal(place, f"its answer is {decision!r}, the official one {official!r}")
    answer = OPTIONS.index(decision) if decision in OPTIONS else -1
    return Draft("pubmedqa", split, name, stem, OPTIONS, answer, " ".join(contexts)).question(place)
