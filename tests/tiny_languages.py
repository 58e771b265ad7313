"""One small benchmark in several languages: the same questions under the same ids."""

from pathlib import Path
from typing import Any

from biomistral.records import LETTERS, Question, write_questions

STEMS = {"en": "What is the {name} number {number}?", "pt": "Qual é o {name} número {number}, por favor?",
         "ar": "ما هو {name} رقم {number}؟", "zh": "第{number}个{name}是什么？"}
OPTIONS = {"en": ("heart", "lung", "liver", "brain"), "pt": ("coração", "pulmão", "fígado", "cérebro"),
           "ar": ("قلب", "رئة", "كبد", "دماغ"), "zh": ("心脏", "肺", "肝", "脑")}
TASKS = {"organs": 4, "signs": 4, "pairs": 2}
"""Options of each task's questions."""


def question(task: str, number: int, language: str = "en", **changes: Any) -> Question:
    """The first five of a task are its ``dev`` split."""
    options = OPTIONS[language][: TASKS[task]]
    return Question(**{
        "id": f"{task}-{number}", "task": task, "language": language, "split": "dev" if number < 5 else "test",
        "stem": STEMS[language].format(name=task, number=number), "options": tuple(f"{one} {number}" for one in options),
        "answer": LETTERS[(number * 7) % len(options)],
        "meta": {} if language == "en" else {"translation": {"engine": "by hand", "model": ""}}, **changes})


def questions(language: str = "en", count: int = 12, tasks: tuple[str, ...] = ("organs", "signs")) -> list[Question]:
    return [question(task, number, language) for task in tasks for number in range(count + 5)]


def write(path: Path, *languages: str, **options: Any) -> Path:
    """A questions file of one language or of several."""
    write_questions(path, [one for language in languages for one in questions(language, **options)])
    return path
