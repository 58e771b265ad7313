"""What is to be asked, fixed and checked before a weight is loaded: questions, prompts, tokens, letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.evaluation.prompts import PROTOCOLS, Protocol, build_prompt, choose_shots, cloze_continuations
from biomistral.evaluation.scoring import Item, cloze_item
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.letters import encode, letter_tokens
from biomistral.recipe import nearest
from biomistral.records import Question, read_questions
from biomistral.seeds import seed

LetterTokens = list[tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Questions of one task asked with the same shots; all its prompts begin alike. ``protocols`` read the same pass."""

    protocols: tuple[Protocol, ...]
    shot_set: int
    questions: list[Question]
    prompts: list[str]
    items: list[Item]
    letters: LetterTokens


def read_benchmark(place: Path) -> list[Question]:
    """The questions of a benchmark folder, or of a questions file.

    Raises:
        UserError: there are none, or one is not sound.
    """
    if place.is_dir() and not (place / "questions.parquet").is_file():
        raise UserError(f"{place}: not a benchmark: it has no questions.parquet; give a benchmark folder or a questions file")
    return read_questions(place / "questions.parquet" if place.is_dir() else place)


def choose_questions(questions: Sequence[Question], settings: EvaluateSettings) -> dict[str, list[Question]]:
    """The questions asked, by task, both in the benchmark's order; ``limit`` keeps those whose seeded rank is lowest, so a
    larger limit only adds questions and a question's lot does not depend on the others.

    Raises:
        UserError: the split or a task has no questions.
    """
    splits = dict.fromkeys(question.split for question in questions)
    if settings.split not in splits:
        raise UserError(f"split '{settings.split}': the benchmark has no such questions{nearest(settings.split, splits)}")
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        if question.split == settings.split:
            by_task.setdefault(question.task, []).append(question)
    for task in settings.tasks:
        if task not in by_task:
            raise UserError(f"task '{task}': the benchmark has no such questions in split '{settings.split}'"
                            f"{nearest(task, by_task)}")
    wanted = {task: found for task, found in by_task.items() if not settings.tasks or task in settings.tasks}
    return {task: _limited(found, settings) for task, found in wanted.items()}


def _limited(questions: list[Question], settings: EvaluateSettings) -> list[Question]:
    if not settings.limit or len(questions) <= settings.limit:
        return questions
    ranked = sorted(questions, key=lambda question: (seed(settings.seed, "limit", question.task, question.id), question.id))
    kept = {question.id for question in ranked[: settings.limit]}
    return [question for question in questions if question.id in kept]


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model can read, from its ``config.json``; None if that does not say."""
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def make_plan(questions: Sequence[Question], settings: EvaluateSettings, tokenizer: PreTrainedTokenizerBase,
              longest: int | None) -> list[Group]:
    """Every group of questions to be asked, tokenised and checked.

    Raises:
        UserError: there is nothing to ask or no shots, a letter is not one token, or a prompt does not fit the model.
    """
    asked = choose_questions(questions, settings)
    passes: dict[tuple[str, int, bool], list[Protocol]] = {}
    for name in dict.fromkeys(settings.protocols):
        protocol = PROTOCOLS[name]
        passes.setdefault((protocol.formulation, protocol.shots, protocol.drawn), []).append(protocol)
    groups = []
    for protocols in passes.values():
        for task, found in asked.items():
            for shot_set in range(settings.shot_sets if protocols[0].drawn else 1):
                shots = choose_shots(questions, task, protocols[0], shot_set, settings.seed, settings.split)
                groups.append(_group(tuple(protocols), shot_set, found, shots, tokenizer))
    for group in groups:
        _check_length(group, longest)
    return groups


def _group(protocols: tuple[Protocol, ...], shot_set: int, questions: list[Question], shots: Sequence[Question],
           tokenizer: PreTrainedTokenizerBase) -> Group:
    prompts = [build_prompt(question, shots, protocols[0]) for question in questions]
    ids = encode(tokenizer, prompts)
    if protocols[0].by_letter:
        items = [Item(question.id, tuple(own), ()) for question, own in zip(questions, ids, strict=True)]
        most = max((question.letters for question in questions), key=len)
        return Group(protocols, shot_set, questions, prompts, items, letter_tokens(tokenizer, prompts[0], most))
    items = []
    for question, prompt, own in zip(questions, prompts, ids, strict=True):
        joint = encode(tokenizer, [prompt + option for option in cloze_continuations(question)])
        items.append(cloze_item(question.id, own, joint))
    return Group(protocols, shot_set, questions, prompts, items, [])


def _check_length(group: Group, longest: int | None) -> None:
    for item in group.items:
        length = len(item.prompt) + max(map(len, item.options), default=0)
        if longest is not None and length > longest:
            raise UserError(f"question {item.id!r}: its prompt under {group.protocols[0].name} has {length} tokens, this model "
                            f"reads {longest}; use fewer shots, leave the question out or evaluate a model with a longer context")
