"""XMedBench (Wang et al., 2024, arXiv 2403.03640): medical examinations of many languages, most of them no translations.

Rows have ``question``, ``option`` (all options in one text), ``anwer`` (so spelled), ``source`` and for PubMedQA ``context``;
later files ``options`` and ``answer``. Their dev files are drawn from the tests: shots from there would show what is asked.
"""

import re
from collections.abc import Iterator
from functools import partial

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.benchmarks.published.lettered import place_of, split_options
from biomistral.errors import UserError
from biomistral.records import Question

_SUBJECTS = ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine")
_LANGUAGES = {
    **dict.fromkeys(("medqa-usmle", "medmcqa", "mmlu-medical", "pubmedqa"), "en"),
    **dict.fromkeys(("medqa-mcmle", "cmb-single", "cmmlu-medical", "cmexam"), "zh"),
    "headqa": "es", "frenchmedmcqa": "fr", "mmlu-medical-ar": "ar", "mmlu-medical-hi": "hi", "kormedmcqa": "ko", "igakuqa": "ja",
    "medexpqa": "it", "rumeddanet": "ru", **{f"mmlu_{subject}_{code}": code for code in ("de", "pt") for subject in _SUBJECTS}}
"""The language of each ``source``, in small letters."""


def _task(source: str) -> str:
    return "xmedbench_" + re.sub(r"[^a-z0-9]+", "_", source.lower())


TASKS = tuple(map(_task, _LANGUAGES))


def tasks_of(language: str) -> tuple[str, ...]:
    """The tasks that are in a language."""
    return tuple(_task(source) for source, code in _LANGUAGES.items() if code == language)


def recognises(file: DataFile) -> bool:
    fields = file.first.keys()
    return fields >= {"question", "source"} and isinstance(_options(file.first), str) and bool(fields & {"anwer", "answer"})


def of_language(files: list[DataFile], language: str) -> list[DataFile]:
    """The tests in a language, by the source of a file's first row.

    Raises:
        UserError: there is none.
    """
    tests = {file.path: _LANGUAGES.get(str(file.first["source"]).lower(), "?") for file in files if file.split in (None, "test")}
    if language not in tests.values():
        raise UserError(f"language '{language}': these tests are in {', '.join(sorted(set(tests.values()))) or 'none'}; name one "
                        "of those with --language (dev files are drawn from the tests, and not read)")
    return [file for file in files if tests.get(file.path) == language]


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """``root`` decides nothing here. Rows have no ids: their number in the file stands for one."""
    for file in files:
        for number, (place, row) in enumerate(file.rows()):
            yield attempt(place, partial(_question, row, number, place))


def _options(row: Row) -> object:
    return row.get("option", row.get("options"))


def _question(row: Row, number: int, place: str) -> Question | Refusal:
    source = str(row["source"])
    if source.lower() not in _LANGUAGES:
        return Refusal(place, f"source is {source!r}, which is none of XMedBench's")
    text = str(_options(row) or "")
    found = split_options(text)
    if found is None:
        return Refusal(place, f"its options cannot be told apart: {' '.join(text.split())[:60]!r}")
    answer = place_of(str(row.get("anwer", row.get("answer")) or ""), found.letters)
    return Draft(_task(source), "test", f"test/{number}", str(row["question"]), found.options, answer, row.get("context"),
                 language=_LANGUAGES[source.lower()]).question(place)
