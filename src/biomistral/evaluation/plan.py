"""What is to be asked, fixed and checked before a weight is loaded: every protocol's groups of questions."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.records import Question
from biomistral.scoring.groups import Group, make_group
from biomistral.scoring.prompts import PROTOCOLS, Protocol, choose_shots, num_shots
from biomistral.scoring.questions import choose_questions


def _check_shots(questions: Sequence[Question], tasks: list[str], protocol: Protocol, settings: EvaluateSettings) -> None:
    """
    Raises:
        UserError: tasks have too few shots; it names all of them, and the tasks that can be asked.
    """
    there = {task: num_shots(questions, task, settings.split) for task in tasks}
    lacking = [f"{task} ({count})" for task, count in there.items() if count < protocol.shots]
    if lacking:
        able = ",".join(task for task, count in there.items() if count >= protocol.shots)
        raise UserError(f"{protocol.name} needs {protocol.shots} shots from a task's dev, train or validation split; too few are "
                        f"there for {', '.join(lacking)}; build the benchmark with their train files too, or choose a 0-shot "
                        "protocol" + (f", or ask the others alone: --tasks {able}" if able else ""))


def make_plan(questions: Sequence[Question], settings: EvaluateSettings, tokenizer: PreTrainedTokenizerBase,
              longest: int | None) -> list[Group]:
    """Every group of questions to be asked, tokenised and checked; protocols that differ in the score alone share one.

    Raises:
        UserError: there is nothing to ask or no shots, a letter is not one token, or a prompt does not fit the model.
    """
    asked = choose_questions(questions, settings.split, settings.tasks, settings.limit, settings.seed)
    passes: dict[tuple[str, int, bool], list[Protocol]] = {}
    for name in dict.fromkeys(settings.protocols):
        protocol = PROTOCOLS[name]
        passes.setdefault((protocol.formulation, protocol.shots, protocol.drawn), []).append(protocol)
    groups = []
    for protocols in passes.values():
        _check_shots(questions, list(asked), protocols[0], settings)
        for task, found in asked.items():
            for shot_set in range(settings.shot_sets if protocols[0].drawn else 1):
                shots = choose_shots(questions, task, protocols[0], shot_set, settings.seed, settings.split)
                groups.append(make_group(tuple(protocols), shot_set, found, shots, tokenizer, longest))
    return groups
