"""What is to be asked, fixed and checked before a weight is loaded: every protocol's groups of questions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from biomistral.errors import UserError
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.models.tokens import Tokenizer
from biomistral.records import Question
from biomistral.scoring.groups import Group, make_group, tokenised, too_long
from biomistral.scoring.permutations import permuted
from biomistral.scoring.prompts import PROTOCOLS, Protocol, choose_shots, num_shots
from biomistral.scoring.questions import choose_questions
from biomistral.scoring.scaffold import with_own_words

LeftOut = tuple[str, int, str, str]
"""Protocol, shot set, id and language of a question that is not asked."""


def _check_shots(questions: Sequence[Question], asked: Iterable[tuple[str, str]], protocol: Protocol,
                 settings: EvaluateSettings) -> None:
    """
    Raises:
        UserError: tasks have too few shots; it names all of them (and their language, if shots have to be in it), and the tasks
            that can be asked.
    """
    there = {(task, language): num_shots(questions, task, protocol, settings.split, language) for task, language in asked}
    lacking = dict.fromkeys(f"{task} in '{language}' ({count})" if protocol.translated else f"{task} ({count})"
                            for (task, language), count in there.items() if count < protocol.shots)
    if lacking:
        few = {task for (task, _), count in there.items() if count < protocol.shots}
        able = ",".join(dict.fromkeys(task for task, _ in there if task not in few))
        how = ("translate these splits too" if protocol.translated else "build the benchmark with their train files too")
        raise UserError(f"{protocol.name} needs {protocol.shots} shots from a task's dev, train or validation split; too few are "
                        f"there for {', '.join(lacking)}; {how}, or choose a 0-shot "
                        "protocol" + (f", or ask the others alone: --tasks {able}" if able else ""))


@dataclass(frozen=True)
class Plan:
    """What is asked, and the questions that no room is for and that the settings leave out."""

    groups: list[Group]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class Pass:
    """Questions of one task and language in all their permutations, asked behind each set of shots, under protocols that read the
    same answer; ``shots`` by the number of the set."""

    protocols: tuple[Protocol, ...]
    questions: list[Question]
    shots: dict[int, list[Question]]


def passes(questions: Sequence[Question], settings: EvaluateSettings) -> Iterator[Pass]:
    """Everything that the settings ask; protocols that differ in the score alone share a pass.

    Raises:
        UserError: there is nothing to ask, or there are no shots.
    """
    chosen = choose_questions(questions, settings.split, settings.tasks, settings.limit, settings.seed, settings.languages)
    asked = {(task, language): [question for question in found if question.language == language]
             for task, found in chosen.items() for language in dict.fromkeys(question.language for question in found)}
    for protocols in _alike(settings.protocols):
        _check_shots(questions, asked, protocols[0], settings)
        count = 1 if protocols[0].formulation == "cloze" else settings.permutations
        for (task, language), published in asked.items():
            shots = {shot_set: choose_shots(questions, task, protocols[0], shot_set, settings.seed, settings.split, language)
                     for shot_set in range(settings.shot_sets if protocols[0].drawn else 1)}
            if protocols[0].translated:
                published = list(map(with_own_words, published))
                shots = {shot_set: list(map(with_own_words, own)) for shot_set, own in shots.items()}
            yield Pass(protocols, permuted(published, count, settings.seed), shots)


def make_plan(questions: Sequence[Question], settings: EvaluateSettings, tokenizer: Tokenizer,
              longest: int | None) -> Plan:
    """Every group of questions to be asked of a model here, tokenised and checked.

    Raises:
        UserError: see `passes`; a letter is not one token, or a prompt does not fit the model and the settings do not say what
            to do then.
    """
    plan = Plan([], [])
    for one in passes(questions, settings):
        found = one.questions
        if settings.too_long == "drop":
            found = _fitting(plan, one.protocols, found, one.shots, (tokenizer, longest))
        for shot_set, own in one.shots.items():
            if settings.too_long == "fewer-shots":
                _add_with_fewer(plan, one.protocols, shot_set, (found, own), (tokenizer, longest))
            elif found:
                plan.groups.append(make_group(one.protocols, shot_set, found, own, tokenizer, longest))
    if not plan.groups:
        raise UserError(f"--too-long {settings.too_long}: none of the questions fits into the {longest} tokens this model reads")
    return plan


def _alike(names: Sequence[str]) -> list[tuple[Protocol, ...]]:
    """Protocols that put a question in the very same way read one forward pass."""
    alike: dict[tuple[object, ...], list[Protocol]] = {}
    for protocol in (PROTOCOLS[name] for name in dict.fromkeys(names)):
        scored = protocol.score if protocol.score in ("text", "mc") else ""
        same = (protocol.formulation, protocol.shots, protocol.drawn, protocol.chat, protocol.instruction,
                protocol.translated, scored)
        alike.setdefault(same, []).append(protocol)
    return [tuple(protocols) for protocols in alike.values()]


def _fitting(plan: Plan, protocols: tuple[Protocol, ...], questions: list[Question], shots: dict[int, list[Question]],
             reader: tuple[Tokenizer, int | None]) -> list[Question]:
    """The questions that fit behind every shot set in every permutation; the others are left out of all, so that sets compare."""
    tokenizer, longest = reader
    long = dict.fromkeys(questions[place].id for shot_set, own in shots.items()
                         for place in too_long(tokenised(protocols, shot_set, questions, own, tokenizer), longest))
    plan.left_out.extend(_left_out(protocols, shots, questions, long))
    return [question for question in questions if question.id not in long]


def _add_with_fewer(plan: Plan, protocols: tuple[Protocol, ...], shot_set: int, texts: tuple[list[Question], list[Question]],
                    reader: tuple[Tokenizer, int | None]) -> None:
    """Add the questions that fit in all their permutations; ask the others with a shot less, or leave them out without any."""
    (questions, shots), (tokenizer, longest) = texts, reader
    group = tokenised(protocols, shot_set, questions, shots, tokenizer)
    long = dict.fromkeys(questions[place].id for place in too_long(group, longest))
    fitting = [question for question in questions if question.id not in long]
    if fitting:
        plan.groups.append(tokenised(protocols, shot_set, fitting, shots, tokenizer) if long else group)
    if long and shots:
        others = [question for question in questions if question.id in long]
        _add_with_fewer(plan, protocols, shot_set, (others, shots[:-1]), reader)
    elif long:
        plan.left_out.extend(_left_out(protocols, [shot_set], questions, long))


def _left_out(protocols: tuple[Protocol, ...], shot_sets: Iterable[int], questions: list[Question],
              long: Iterable[str]) -> Iterator[LeftOut]:
    """Of questions of one language."""
    return ((protocol.name, shot_set, name, questions[0].language) for protocol in protocols for shot_set in shot_sets
            for name in long)
