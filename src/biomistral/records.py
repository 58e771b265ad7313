"""The plain records that stages exchange: documents, questions and answers, and their Parquet and JSONL files."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError, model_validator

from biomistral.errors import UserError
from biomistral.recipe import Settings

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

DOCUMENT_SCHEMA = pa.schema([
    ("id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("licence", pa.string()),
    ("language", pa.string()), ("language_declared", pa.string()), ("source", pa.string()), ("year", pa.int32()),
    ("journal", pa.string()), ("article_type", pa.string()), ("sections", pa.list_(pa.string())),
    ("authors", pa.list_(pa.string())), ("pmid", pa.string()), ("doi", pa.string()), ("url", pa.string()),
    ("words", pa.int32()), ("tokens", pa.int32()),
])
"""One row a document. ``id`` is the PMCID, else the DOI, else ``source:name``; ``licence`` an SPDX-like id (CC-BY-4.0).

``language`` is what the corpus takes it for, ``language_declared`` what it says itself; ``tokens`` counts BOS and EOS.
"""

REFUSED_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
"""One row a refused document: ``reason`` is a short fixed word that is counted, ``detail`` what was seen."""

QUESTION_SCHEMA = pa.schema([
    ("id", pa.string()), ("task", pa.string()), ("language", pa.string()), ("split", pa.string()), ("stem", pa.string()),
    ("options", pa.list_(pa.string())), ("answer", pa.string()), ("context", pa.string()), ("meta", pa.string()),
])
"""One row a question. Options stand in letter order (the first is A); ``meta`` is JSON."""

ANSWER_SCHEMA = pa.schema([
    ("model", pa.string()), ("protocol", pa.string()), ("task", pa.string()), ("question", pa.string()),
    ("language", pa.string()), ("shot_set", pa.int32()), ("group", pa.string()), ("options", pa.int32()),
    ("answer", pa.string()), ("chosen", pa.string()), ("right", pa.bool_()), ("probabilities", pa.list_(pa.float64())),
    ("letter_mass", pa.float64()), ("open_chosen", pa.string()), ("open_right", pa.bool_()),
    ("prompt_hash", pa.string()), ("prompt_tokens", pa.int32()), ("seconds", pa.float64()), ("shots", pa.int32()),
    ("said", pa.string()), ("unparsed", pa.string()), ("truth_mass", pa.float64()),
    ("permutation", pa.int32()), ("order", pa.list_(pa.int32())), ("cluster", pa.string()),
])
"""One row per question x shot set x model x protocol (DESIGN: Record).

``probabilities`` are renormalised over the options, in letter order; ``letter_mass`` is the probability the letters held
before that (null for cloze); ``open_chosen`` the argmax over the whole vocabulary, decoded; ``group`` the question's
``meta.group`` (e.g. ``taught``), ``""`` if it has none; ``shots`` how many it was shown. Answers in words: ``said`` is the text,
``unparsed`` why no option could be read from it (null where one could; then ``chosen`` is ``""`` and there are no probabilities).
``truth_mass``: of TruthfulQA's answers, the share of probability of the true ones (MC2).
``permutation``: 0 as published, 1 and up in another order of the options; ``order`` says which published option (from 0) stood at
each letter (null: as published). All letters of a row are those that were shown. ``cluster`` is the same for questions of several
tasks that ask the same (MedQA with four and with five options; a code at three levels): a hash of stem and context; a translation
has its English question's. ``question`` and ``language`` together name a question: its translations have the same id.
"""


class Question(Settings):
    """A multiple-choice question, in any of the benchmarks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    task: str = Field(min_length=1)
    language: str = "en"
    split: str = "test"
    stem: str
    options: tuple[str, ...] = Field(min_length=2, max_length=len(LETTERS))
    answer: str
    context: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> "Question":
        if not self.stem.strip():
            raise ValueError("the stem is empty")
        for letter, option in zip(LETTERS, self.options, strict=False):
            if not option.strip():
                raise ValueError(f"option {letter} is empty")
        if self.answer not in tuple(self.letters):  # nor is '' or 'AB' a letter
            raise ValueError(f"answer {self.answer!r} is not among the options {self.letters}")
        return self

    @property
    def letters(self) -> str:
        """The letters of the options, e.g. ``ABCD``."""
        return LETTERS[: len(self.options)]

    @property
    def identity(self) -> tuple[str, str]:
        """Language and id: what tells it from every other question that is asked. Its translations have the same id."""
        return self.language, self.id

    @property
    def answer_index(self) -> int:
        return LETTERS.index(self.answer)


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, batch: int = 4096) -> int:
    """Stream rows into a Parquet file (zstd); returns how many there were. The file appears when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, pending = 0, []
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row in rows:
            pending.append(row)
            count += 1
            if len(pending) == batch:
                writer.write_table(pa.Table.from_pylist(pending, schema=schema))
                pending = []
        writer.write_table(pa.Table.from_pylist(pending, schema=schema))
    temporary.replace(path)
    return count


def read_rows(path: Path, batch: int = 4096) -> Iterator[dict[str, Any]]:
    """Stream the rows of a Parquet file.

    Raises:
        UserError: the file is missing or not Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:
            for part in file.iter_batches(batch_size=batch):
                yield from part.to_pylist()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error


def question_row(question: Question) -> dict[str, Any]:
    """The Parquet row of a question."""
    row = question.model_dump()
    return {**row, "options": list(question.options), "meta": json.dumps(question.meta, sort_keys=True, ensure_ascii=False)}


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write questions as Parquet; returns how many."""
    return write_table(path, (question_row(question) for question in questions), QUESTION_SCHEMA)


def read_questions(path: Path) -> list[Question]:
    """Read and validate questions from Parquet or JSONL.

    Raises:
        UserError: see `iter_questions`.
    """
    return [question for _, question in iter_questions(path)]


def iter_questions(path: Path) -> Iterator[tuple[str, Question]]:
    """Stream the questions of a Parquet or JSONL file, each validated, with where it stands (``file:row``).

    Raises:
        UserError: a row is not a sound question, an id appears twice (the message names file and row), or there are none.
    """
    rows = _jsonl_rows(path) if path.suffix in (".jsonl", ".json") else enumerate(read_rows(path), 1)
    seen: set[str] = set()
    for number, row in rows:
        question = _parse_question(row, f"{path}:{number}")
        if question.id in seen:
            raise UserError(f"{path}:{number}: question id {question.id!r} appears twice; ids must be unique")
        seen.add(question.id)
        yield f"{path}:{number}", question
    if not seen:
        raise UserError(f"{path}: holds no questions")


def _parse_question(row: dict[str, Any], place: str) -> Question:
    if isinstance(row.get("meta"), str):
        row["meta"] = json.loads(row["meta"])
    row = {name: value for name, value in row.items() if value is not None}
    named = f"question {row.get('id', '?')!r}"
    if isinstance(row.get("options"), dict):
        letters = list(row["options"])
        if letters != list(LETTERS[: len(letters)]):
            raise UserError(f"{place}: {named}: option letters {letters} are not A, B, C, ... in order")
        row["options"] = tuple(row["options"].values())
    if "answer" not in row and "id" in row:
        raise UserError(f"{place}: {named} has no answer")
    try:
        return Question.model_validate(row)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ": ".join(filter(None, (named, ".".join(map(str, problem["loc"])))))
        raise UserError(f"{place}: {where}: {problem['msg'].removeprefix('Value error, ')}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{path}:{number}: one JSON object a line was expected")
                    yield number, row
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON Lines in UTF-8 ({error})") from error
