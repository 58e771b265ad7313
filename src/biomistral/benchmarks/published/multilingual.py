"""MMLU's six medical subjects in other languages: OpenAI's MMMLU and Global-MMLU (Singh et al., 2024, arXiv 2412.03304).

Questions keep the ids that `mmlu` gives them in English: Global-MMLU names each (``anatomy/test/0``), MMMLU keeps MMLU's order
within a subject. An evaluation refuses pairs whose right letters differ, so another order would not pass unseen.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from biomistral.benchmarks.published import mmlu
from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.errors import UserError
from biomistral.records import LETTERS, Question

_MMMLU = {"Question", "A", "B", "C", "D", "Answer", "Subject"}
_OPTIONS = ("option_a", "option_b", "option_c", "option_d")
_GLOBAL = {"sample_id", "subject", "question", *_OPTIONS, "answer"}
_LOCALE = re.compile(r"(?:^|[_-])([A-Za-z]{2})(?:[-_][A-Za-z]{2,4})?$")
"""``mmlu_AR-XY``, ``PT_BR``, ``sw-KE``: the language in front of a region."""


def is_mmmlu(file: DataFile) -> bool:
    return file.first.keys() >= _MMMLU


def is_global(file: DataFile) -> bool:
    return file.first.keys() >= _GLOBAL


def language_of(file: DataFile) -> str:
    """By the name of the file (``mmlu_AR-XY.csv``), else of its folder (``ar/test-00000-of-00001.parquet``).

    Raises:
        UserError: neither says one.
    """
    for name in (file.path.stem, file.path.parent.name):
        if found := _LOCALE.search(name):
            return found.group(1).lower()
    raise UserError(f"{file.path}: neither its name nor its folder's says a language; name it as published (mmlu_AR-XY.csv, "
                    "ar/test-00000-of-00001.parquet)")


def of_language(files: list[DataFile], language: str) -> list[DataFile]:
    """
    Raises:
        UserError: no file is in this language.
    """
    languages = {file.path: language_of(file) for file in files}
    if language not in languages.values():
        raise UserError(f"language '{language}': these files are in {', '.join(sorted(set(languages.values())))}; name one of "
                        "those with --language")
    return [file for file in files if languages[file.path] == language]


def read_mmmlu(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Tests of the medical subjects; ``root`` decides nothing here."""
    return _read(files, _mmmlu)


def read_global(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Dev and test of the medical subjects; ``root`` decides nothing here."""
    return _read(files, _global)


def _read(files: list[DataFile], draft: Callable[[Row, int], Draft]) -> Iterator[Question | Refusal]:
    for file in files:
        language, numbers = language_of(file), Counter[str]()
        for place, row in file.rows():
            subject = str(row.get("Subject", row.get("subject")))
            if subject in mmlu.SUBJECTS:
                yield attempt(place, partial(_question, draft, row, numbers[subject], language, place))
                numbers[subject] += 1


def _question(draft: Callable[[Row, int], Draft], row: Row, number: int, language: str, place: str) -> Question | Refusal:
    made = draft(row, number).question(place)
    if isinstance(made, Refusal):
        return made
    about = {} if language == "en" else {"translation": {"engine": "MMMLU" if "Subject" in row else "Global-MMLU", "model": ""}}
    return made.model_copy(update={"language": language, "meta": about})


def _mmmlu(row: Row, number: int) -> Draft:
    return Draft(f"mmlu_{row['Subject']}", "test", f"test/{number}", str(row["Question"]), [str(row[one]) for one in "ABCD"],
                 _place(row["Answer"]))


def _global(row: Row, number: int) -> Draft:
    subject, split, name = str(row["sample_id"]).split("/")
    split = "validation" if split == "val" else split
    return Draft(f"mmlu_{subject}", split, f"{split}/{name}", str(row["question"]), [str(row[one]) for one in _OPTIONS],
                 _place(row["answer"]))


def _place(letter: str) -> int:
    letter = str(letter).strip()
    return LETTERS.find(letter) if letter else -1
