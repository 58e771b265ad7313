"""MMLU's six medical subjects (Hendrycks et al., 2020, arXiv 2009.03300): header-less csv as released, or the hub's Parquet."""

from collections.abc import Iterator
from functools import partial

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.records import LETTERS, Question

SUBJECTS = ("clinical_knowledge", "medical_genetics", "anatomy", "professional_medicine", "college_biology", "college_medicine")
TASKS = tuple(f"mmlu_{subject}" for subject in SUBJECTS)
_HUB = {"question", "subject", "choices", "answer"}


def recognises(file: DataFile) -> bool:
    """Six columns without a header, or the hub's four by name."""
    return file.first.keys() == set("012345") or file.first.keys() >= _HUB


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Questions of the medical subjects, in the paper's order where each has files of its own; files of other subjects are not
    this suite's. ``root`` decides nothing here."""
    for file in sorted(files, key=_place):
        numbers: dict[str, int] = {}
        for place, row in file.rows():
            subject = str(row["subject"]) if "subject" in row else _subject(file)
            if subject not in SUBJECTS:
                continue
            numbers[subject] = numbers.get(subject, -1) + 1
            yield attempt(place, partial(_question, file, subject, numbers[subject], row, place))


def _place(file: DataFile) -> int:
    return SUBJECTS.index(_subject(file)) if _subject(file) in SUBJECTS else len(SUBJECTS)


def _subject(file: DataFile) -> str:
    """``anatomy`` of ``anatomy_test.csv``."""
    return file.path.stem.rpartition("_")[0]


def _question(file: DataFile, subject: str, number: int, row: Row, place: str) -> Question | Refusal:
    split = file.split
    if split is None:
        return Refusal(place, "the file's name says no split (dev, val, test)")
    if "choices" in row:
        stem, options, answer = str(row["question"]), row["choices"], int(row["answer"])
    else:
        stem, options = row["0"], [row[str(column)] for column in range(1, 5)]
        answer = LETTERS.find(row["5"].strip()) if row["5"].strip() else -1
    return Draft(f"mmlu_{subject}", split, f"{split}/{number}", stem, options, answer).question(place)
