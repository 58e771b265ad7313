"""BioInstructQA (Labrak et al., 2024, arXiv 2402.10373): the ten tasks as BioMistral released them, and their tests in seven
languages, translated by GPT-3.5 Turbo.

``data.zip`` holds ``base/overall_{train,validation,test}+prompt.json`` and ``langs_processed/{Language}-full.json``. Only
tests are translated: train and validation, which shots come from, are English beside any test. A question has one id in all
languages.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from biomistral.benchmarks.published import mmlu
from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.errors import UserError
from biomistral.languages import known
from biomistral.records import LETTERS, Question

LANGUAGES = ("ar", "zh", "fr", "de", "pt", "ru", "es")
CORPORA = {"MedQA": "medqa_4", "MedQA-5_options": "medqa_5", "PubMedQA": "pubmedqa", "MedMCQA": "medmcqa",
           **{f"MMLU_{subject}": f"mmlu_{subject}" for subject in mmlu.SUBJECTS}}
TASKS = tuple(CORPORA.values())
TRANSLATION = {"engine": "openai", "model": "gpt-3.5-turbo"}
_FIELDS = {"corpus_name", "identifier", "question", "options", "correct_answer_letter"}


def recognises(file: DataFile) -> bool:
    return file.first.keys() >= _FIELDS


def of_language(files: list[DataFile], language: str) -> list[DataFile]:
    """The files of the English train and validation splits, and of the test in a language.

    Raises:
        UserError: there is no test in this language.
    """
    tests = {_language(file): file for file in files if _language(file) != "en" or file.split == "test"}
    if language not in tests:
        there, named = ", ".join(sorted(tests)) or "none", known()[language].name if language in LANGUAGES else "Language"
        raise UserError(f"language '{language}': these files of BioInstructQA have a test in {there}; "
                        f"name one of those, or give the file that has it ({named}-full.json)")
    return [file for file in files if file is tests[language] or (_language(file) == "en" and file.split != "test")]


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """``root`` decides nothing here."""
    for file in files:
        language = _language(file)
        split = "test" if language != "en" else file.split
        for place, row in file.rows():
            yield attempt(place, partial(_question, row, split, language, place))


def _language(file: DataFile) -> str:
    """By the file's name, ``French-full.json``; any other is English."""
    names = {known()[code].name: code for code in LANGUAGES}
    return names.get(file.path.stem.partition("-")[0], "en")


def _question(row: Row, split: str | None, language: str, place: str) -> Question | Refusal:
    if split is None:
        return Refusal(place, "the file's name says no split (train, validation, test) and no language")
    task = CORPORA.get(row["corpus_name"])
    if task is None:
        return Refusal(place, f"corpus_name is {row['corpus_name']!r}, which is none of the ten tasks")
    suffix = "" if language == "en" else "_translated"
    options = {letter.upper(): str(text) for letter, text in dict(row[f"options{suffix}"]).items()}
    letters = list(options)
    if letters != list(LETTERS[:len(letters)]):
        return Refusal(place, f"its options are lettered {letters}")
    right = str(row["correct_answer_letter"]).upper()
    answer = letters.index(right) if right in letters else -1
    meta = {} if language == "en" else {"translation": TRANSLATION}
    return Draft(task, split, f"{split}/{row['identifier']}", str(row[f"question{suffix}"]), list(options.values()), answer,
                 _context(row, task, suffix), meta, language).question(place)


def _context(row: Row, task: str, suffix: str) -> str | None:
    """The abstract that PubMedQA's questions are about; the other tasks are asked without any."""
    found: Any = row.get(f"context{suffix}") if task == "pubmedqa" else None
    return " ".join(map(str, found)) if isinstance(found, list) else found
