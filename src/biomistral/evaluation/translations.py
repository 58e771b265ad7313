"""A benchmark and its translations as one set of questions, twins told by task and id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomistral.artifact import input_key
from biomistral.errors import UserError
from biomistral.records import Question
from biomistral.scoring.questions import read_benchmark
from biomistral.scoring.rows import cluster_of


@dataclass(frozen=True)
class Together:
    """All questions, each once; and of every translated benchmark what results say of it."""

    questions: list[Question]
    about: list[dict[str, Any]]


def read_together(benchmark: Path, translations: Sequence[Path], split: str) -> Together:
    """The questions of a benchmark and of its translations. A translation of the asked ``split`` learns its English question's
    ``meta.cluster``: they are one piece of evidence.

    Raises:
        UserError: a file is not sound; a translation has nothing new, a question twice in one language with other words, or none
            whose English question is there; the two of a pair do not fit.
    """
    found: dict[tuple[str, str], Question] = {question.identity: question for question in read_benchmark(benchmark)}
    new_of = {place: _new(place, read_benchmark(place), found) for place in translations}
    english = {question.id: question for question in found.values() if question.language == "en" and question.split == split}
    about = [_about(place, new, english, split) for place, new in new_of.items()]
    return Together([_with_cluster(question, english) for question in found.values()] if translations else list(found.values()),
                    about)


def _new(place: Path, questions: Sequence[Question], found: dict[tuple[str, str], Question]) -> list[Question]:
    """What is not there yet, and is added: English shots stand in many translations too, as they stand in the benchmark."""
    new = []
    for question in questions:
        other = found.setdefault(question.identity, question)
        if other is question:
            new.append(question)
        elif (other.stem, other.options, other.answer, other.context) != (question.stem, question.options, question.answer,
                                                                          question.context):
            raise UserError(f"{place}: question {question.id!r} is in another benchmark too, in the same language "
                            f"('{question.language}') with other words; give one benchmark a language")
    if not new:
        raise UserError(f"--translations {place}: holds no question that the benchmarks before it lack; give a benchmark whose "
                        "questions are in another language")
    return new


def _about(place: Path, new: Iterable[Question], english: Mapping[str, Question], split: str) -> dict[str, Any]:
    asked = [question for question in new if question.split == split]
    alone = sum(_twin(question, english) is None for question in asked)
    if english and asked and alone == len(asked):
        raise UserError(f"--translations {place}: none of its {alone} questions has the task and id of an English one; a "
                        "translation keeps both")
    engines = dict.fromkeys(_engine(question) for question in asked if isinstance(question.meta.get("translation"), dict))
    return {"name": place.absolute().stem, "key": input_key(place),
            "languages": list(dict.fromkeys(question.language for question in asked)),
            "questions": len(asked), "without_twin": alone, "translated_by": list(engines)}


def _engine(question: Question) -> str:
    return " ".join(str(question.meta["translation"][field]) for field in ("engine", "model")
                    if question.meta["translation"].get(field))


def _twin(question: Question, english: Mapping[str, Question]) -> Question | None:
    """
    Raises:
        UserError: the English question has other options or another right one.
    """
    twin = english.get(question.id)
    if twin is None or twin.task != question.task:
        return None
    if (len(twin.options), twin.answer) != (len(question.options), question.answer):
        raise UserError(f"question {question.id!r}: in '{question.language}' it has {len(question.options)} options and answer "
                        f"{question.answer}, in English {len(twin.options)} and {twin.answer}; a translation keeps both")
    return twin


def _with_cluster(question: Question, english: Mapping[str, Question]) -> Question:
    twin = None if question.language == "en" else _twin(question, english)
    return question if twin is None else question.model_copy(update={"meta": {**question.meta, "cluster": cluster_of(twin)}})
