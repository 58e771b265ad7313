"""Translations that people or others made, looked up by task and id and checked like all."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from biomistral.benchmarks.published.files import Row, data_files
from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.records import LETTERS
from biomistral.scoring.questions import questions_file
from biomistral.translation.engine import Answer, Deliver, Engine, Piece
from biomistral.translation.engines.build import Means
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason
from biomistral.translation.settings import Translator

_STEMS = ("stem", "question", "question_translated")
_OPTIONS = ("options", "options_translated")
_CONTEXTS = ("context", "context_translated")
_IDS = ("id", "identifier")


def make(translator: Translator, means: Means) -> "Imported":
    assert translator.translations is not None
    return Imported(means.work.locate(translator.translations))


class Imported(Engine):
    """Whole questions from files of others, in the language that is asked for."""

    together = True
    by_item = True
    longest = 1 << 40

    def __init__(self, place: Path) -> None:
        """
        Raises:
            UserError: a file cannot be read, a row has no id or no text, or two rows have the same id and task.
        """
        self.identity = {"engine": "import", "model": content_digest(place)[:16], "version": 1}
        self._found: dict[tuple[str, str], Fields] = {}
        for where, row in _rows(place):
            key, fields = _key(row, where), _fields(row, where)
            if key in self._found:
                raise UserError(f"{where}: id {key[1]!r} appears twice; a question has one translation")
            self._found[key] = fields

    def can(self, source: str, target: str) -> bool:
        """The files are taken to be in the language that is asked for; the checks see whether they are."""
        return True

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        for piece in pieces:
            task, name = piece.item
            found = self._found.get((task, name)) or self._found.get(("", name))
            if found is None:
                deliver(piece, Answer({}, (Reason("no_answer", "", f"no translation with id {name!r}"),)))
            else:
                more = tuple(Reason("more_options", letter, found[letter]) for letter in found
                             if letter not in piece.fields and letter in LETTERS)
                deliver(piece, Answer({field: text for field, text in found.items() if field in piece.fields}, more))


def _rows(place: Path) -> Iterator[tuple[str, Row]]:
    if (place / "questions.parquet").is_file():
        place = questions_file(place)
    for file in data_files([place]):
        yield from file.rows()


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _key(row: Row, where: str) -> tuple[str, str]:
    name = _first(row, _IDS)
    if name is None:
        raise UserError(f"{where}: has no id; each translation needs the id of its question (column 'id'), and 'task' where ids "
                        "are not unique")
    return str(row.get("task") or row.get("corpus_name") or ""), str(name)


def _fields(row: Row, where: str) -> Fields:
    """The texts that a row has: a list or an object of options, or columns A, B, ...; what is missing is found by the checks."""
    options = _first(row, _OPTIONS)
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError as error:
            raise UserError(f"{where}: options {options[:60]!r} are neither a list nor an object (JSON)") from error
    if isinstance(options, list):
        options = dict(zip(LETTERS, options, strict=False))
    if not isinstance(options, dict):
        options = {letter: row[letter] for letter in LETTERS if row.get(letter) is not None}
    texts = {"stem": _first(row, _STEMS), **options, "context": _first(row, _CONTEXTS)}
    return {name: str(text).strip() for name, text in texts.items() if text is not None}
