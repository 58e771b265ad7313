"""Which questions of a benchmark are asked: its split, its tasks, a sample of each."""

from collections.abc import Sequence
from pathlib import Path

from biomistral.errors import UserError
from biomistral.recipe import nearest
from biomistral.records import Question, read_questions
from biomistral.seeds import seed


def questions_file(place: Path) -> Path:
    """The questions of a benchmark folder; a questions file is itself.

    Raises:
        UserError: the folder has none.
    """
    if place.is_dir() and not (place / "questions.parquet").is_file():
        raise UserError(f"{place}: not a benchmark: it has no questions.parquet; give a benchmark folder or a questions file")
    return place / "questions.parquet" if place.is_dir() else place


def read_benchmark(place: Path) -> list[Question]:
    """The questions of a benchmark folder, or of a questions file.

    Raises:
        UserError: there are none, or one is not sound.
    """
    return read_questions(questions_file(place))


def choose_questions(questions: Sequence[Question], split: str, tasks: Sequence[str], limit: int,
                     root: int, languages: Sequence[str] = ()) -> dict[str, list[Question]]:
    """The questions asked, by task, both in the benchmark's order; ``limit`` keeps those whose seeded rank is lowest, so a
    larger limit only adds questions and a question's lot does not depend on the others (0: all). It counts each language by
    itself: of a question all translations are kept, or none. No ``languages``: all of them.

    Raises:
        UserError: the split, a task or a language has no questions.
    """
    splits = dict.fromkeys(question.split for question in questions)
    if split not in splits:
        raise UserError(f"split '{split}': the benchmark has no such questions{nearest(split, splits)}")
    there = dict.fromkeys(question.language for question in questions if question.split == split)
    for language in languages:
        if language not in there:
            raise UserError(f"language '{language}': no question of split '{split}' is in it{nearest(language, there)}; "
                            "translations come in with --translations")
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        if question.split == split and (not languages or question.language in languages):
            by_task.setdefault(question.task, []).append(question)
    for task in tasks:
        if task not in by_task:
            raise UserError(f"task '{task}': the benchmark has no such questions in split '{split}'{nearest(task, by_task)}")
    return {task: _by_language(found, limit, root) for task, found in by_task.items() if not tasks or task in tasks}


def _by_language(questions: list[Question], limit: int, root: int) -> list[Question]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.language, []).append(question)
    kept = {question.identity for own in found.values() for question in _limited(own, limit, root)}
    return [question for question in questions if question.identity in kept]


def _limited(questions: list[Question], limit: int, root: int) -> list[Question]:
    if not limit or len(questions) <= limit:
        return questions
    ranked = sorted(questions, key=lambda question: (seed(root, "limit", question.task, question.id), question.id))
    kept = {question.id for question in ranked[:limit]}
    return [question for question in questions if question.id in kept]
