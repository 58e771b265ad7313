"""Anyone's own multiple-choice questions (CSV, JSON, JSON Lines, Parquet), their columns named by the user."""

from collections.abc import Iterator
from functools import partial

from biomistral.artifact import Workspace
from biomistral.benchmarks import folder
from biomistral.benchmarks.folder import Suite
from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row, data_files
from biomistral.benchmarks.settings import OwnQuestionsSettings
from biomistral.errors import UserError
from biomistral.files import files_under
from biomistral.recipe import nearest
from biomistral.records import LETTERS, Question


def bring(work: Workspace) -> None:
    """Write a benchmark folder of the files' questions.

    Raises:
        UserError: a file cannot be read, or lacks a column that the settings name.
    """
    settings: OwnQuestionsSettings = work.settings
    for leftover in files_under(work.path):
        leftover.unlink()
    files = data_files([work.locate(place) for place in settings.files])
    for file in files:
        _check_columns(file, settings)
    work.licences = {settings.licence: 1}
    about = {"licence": settings.licence, "source": ", ".join(file.path.name for file in files)}
    folder.write(work, settings.task, Suite(folder.sound(work, _read(files, settings)), {settings.task: about}))


def _check_columns(file: DataFile, settings: OwnQuestionsSettings) -> None:
    named = {"stem": settings.stem, "answer": settings.answer, "id": settings.id, "context": settings.context,
             "split_column": settings.split_column}
    for what, column in [*named.items(), *(("options", column) for column in settings.options)]:
        if column and column not in file.first:
            raise UserError(f"{file.path}: has no column '{column}'{nearest(column, file.first)}; it has "
                            f"{', '.join(file.first) or 'no row'}; name the right one with --{what.replace('_', '-')}")


def _read(files: list[DataFile], settings: OwnQuestionsSettings) -> Iterator[Question | Refusal]:
    seen: set[str] = set()
    number = 0
    for file in files:
        for place, row in file.rows():
            item = attempt(place, partial(_question, row, str(row[settings.id]) if settings.id else str(number), settings, place))
            number += 1
            if isinstance(item, Question) and item.id in seen:
                item = Refusal(place, "another row has this id")
            if isinstance(item, Question):
                seen.add(item.id)
            yield item


def _question(row: Row, name: str, settings: OwnQuestionsSettings, place: str) -> Question | Refusal:
    options = _options(row, settings)
    split = str(row[settings.split_column]) if settings.split_column else settings.split
    context = str(row[settings.context] or "").strip() if settings.context else None
    return Draft(settings.task, split, name, str(row[settings.stem]), options, _answer(row[settings.answer], options, settings),
                 context, language=settings.language).question(place)


def _options(row: Row, settings: OwnQuestionsSettings) -> list[str]:
    """The texts of the columns named, those without any left out at the end; or of one column that holds a list, or an object
    by letter."""
    if len(settings.options) == 1:
        held = row[settings.options[0]]
        if isinstance(held, dict):
            held = [held[letter] for letter in LETTERS[:len(held)]]
        if not isinstance(held, list):
            raise TypeError(f"column '{settings.options[0]}' holds {held!r}, not a list of options")
        return [str(text) for text in held]
    texts = ["" if row[column] is None else str(row[column]) for column in settings.options]
    while texts and not texts[-1].strip():
        texts.pop()
    return texts


def _answer(value: object, options: list[str], settings: OwnQuestionsSettings) -> int:
    """The right option's place from 0; -1 where there is none such."""
    text = str(value).strip()
    if settings.answer_as == "letter":
        return LETTERS.index(text.upper()) if len(text) == 1 and text.upper() in LETTERS else -1
    if settings.answer_as == "text":
        found = [place for place, option in enumerate(options) if option.strip() == text]
        return found[0] if len(found) == 1 else -1
    return int(text) - (settings.answer_as == "number from 1")
