"""Questions of a benchmark, asked while a model is trained: the scores that evaluation would give it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biomistral.artifact import Workspace, input_key
from biomistral.errors import UserError
from biomistral.models.folder import read_config
from biomistral.recipe import canonical_hash, nearest
from biomistral.records import LETTERS, Question, iter_questions
from biomistral.scoring.engine import Engine, batches
from biomistral.scoring.groups import Group as Questions
from biomistral.scoring.groups import context_length, make_group
from biomistral.scoring.prompts import PROTOCOLS, SHOT_SPLITS, choose_shots
from biomistral.scoring.questions import choose_questions, questions_file
from biomistral.scoring.rows import answer_rows
from biomistral.scoring.score import num_forwards
from biomistral.scoring.tally import Row, score
from biomistral.training.parallel import Group
from biomistral.training.settings import TrainingSettings
from biomistral.training.weights.masters import Weights

PREFIX = "validation_"


class Validation:
    """Questions ready to be asked of a model in training, and what is noted of them."""

    def __init__(self, settings: TrainingSettings, groups: Sequence[Questions], tokenizer: PreTrainedTokenizerBase,
                 asked: tuple[Path, str], key: str) -> None:
        self.settings, self.asked = settings, asked
        self._groups, self._tokenizer, self._key = groups, tokenizer, key

    @property
    def _num_questions(self) -> int:
        return sum(len(questions.items) for questions in self._groups)

    def due(self, done: int, last: bool) -> bool:
        """Whether to ask after ``done`` steps."""
        every = self.settings.validate_steps
        return last or bool(every and done % every == 0)

    def ask(self, model: PreTrainedModel, weights: Weights, group: Group) -> dict[str, float]:
        """Columns of the log: accuracy and its 95 % interval, mean probability of the right option, letter mass, seconds.

        All processes call it and each asks a part; batches do not depend on how many there are, so neither do the numbers.
        """
        started = time.perf_counter()
        with _answering(model, self.settings.micro_batch_tokens, weights) as engine:
            mine = [row for questions in self._groups for row in self._answers(engine, questions, group)]
        rows = sorted((row for part in group.words_of_all(mine) for row in part), key=lambda row: (row["task"], row["question"]))
        found = score(rows)
        columns = {"accuracy": found["accuracy"], "low": found["interval"][0], "high": found["interval"][1],
                   "probability": sum(row["probabilities"][LETTERS.index(row["answer"])] for row in rows) / len(rows),
                   "letter_mass": found["letter_mass"], "seconds": time.perf_counter() - started}
        return {PREFIX + name: value for name, value in columns.items() if value is not None}

    def _answers(self, engine: Engine, questions: Questions, group: Group) -> Iterator[Row]:
        """This process's share of the answers to one task's questions.

        Weights in parts are gathered by all processes at once, so who has less to compute computes idly until all are done.
        """
        prompts = [item.prompt for item in questions.items]
        shared = engine.shared_length(prompts)
        prefix = engine.prefix(prompts[0][:shared])
        todo = batches([engine.cost(len(prompt) - shared, shared) for prompt in prompts], engine.max_batch_tokens)
        for start in range(0, len(todo), group.size):
            together = todo[start:start + group.size]
            passes = [num_forwards([questions.items[index] for index in batch], engine.max_batch_tokens) for batch in together]
            passes += [0] * (group.size - len(together))
            if group.rank < len(together):
                yield from answer_rows(engine, prefix, questions, together[group.rank], self._tokenizer, "")
            for _ in range(max(passes) - passes[group.rank]):
                engine.idle()

    def words(self, row: dict[str, Any]) -> str:
        """A validation's row for a reader."""
        mass = row.get(PREFIX + "letter_mass")
        return (f"{row[PREFIX + 'accuracy']:.1%} of {self._num_questions} questions right "
                f"({row[PREFIX + 'low']:.1%} to {row[PREFIX + 'high']:.1%})"
                + (f", the letters hold {mass:.0%} of the probability" if mass is not None else ""))

    def facts(self, rows: Sequence[dict[str, Any]], exported: int) -> dict[str, Any]:
        """What the manifest says: what was asked and how, the scores before, after and at best, and whose weights were kept."""
        settings, found, best = self.settings, validations(rows), best_step(rows)
        return {"key": self._key, "split": settings.validate_split, "questions": self._num_questions,
                "tasks": [questions.questions[0].task for questions in self._groups], "protocol": settings.validate_protocol,
                "definition_hash": canonical_hash(PROTOCOLS[settings.validate_protocol].definition()),
                "before": found[0], "after": found[-1], "best": next((row for row in found if row["step"] == best), None),
                "exported_step": exported}


def validations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The validations among the rows of a log, their columns under their own names."""
    return [{name.removeprefix(PREFIX): value for name, value in row.items() if name != PREFIX + "seconds"}
            for row in rows if PREFIX + "accuracy" in row]


def best_step(rows: Sequence[dict[str, Any]]) -> int | None:
    """The trained step with the highest accuracy, of equals the one surer of what is right, then the first; None before any."""
    found = [row for row in validations(rows) if row["step"] > 0]
    return max(found, key=lambda row: (row["accuracy"], row["probability"], -row["step"]))["step"] if found else None


@contextmanager
def _answering(model: PreTrainedModel, max_batch_tokens: int, weights: Weights) -> Iterator[Engine]:
    """The model as it answers: its own attention, which knows a cache and padding, no dropout; then as it was."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    compiled = any(layer._compiled_call_impl is not None for layer in model.get_decoder().layers)
    engine = Engine(model, max_batch_tokens, weights.run)
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():  # each shape of a cache would be compiled
        yield engine
    engine.give_back()
    model.set_attn_implementation(attention)
    model.train(training)


def _read(file: Path, split: str, shots: bool) -> list[Question]:
    """The split that is asked, and those that shots come from; a train split of 400,000 questions is not kept for nothing."""
    kept, splits = [], {}
    for _, question in iter_questions(file):
        splits[question.split] = True
        if question.split == split or (shots and question.split in SHOT_SPLITS):
            kept.append(question)
    if split not in splits:
        raise UserError(f"{file}: has no questions of validate_split '{split}'{nearest(split, splits)}")
    return kept


def make_validation(work: Workspace, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Validation | None:
    """The questions that the settings want asked of the model in ``folder``, checked before any weight is loaded.

    Raises:
        UserError: the benchmark has no such questions, or the model cannot be asked them (see `make_group`).
    """
    settings: TrainingSettings = work.settings
    if settings.validate_on is None:
        return None
    place, split, protocol = work.locate(settings.validate_on), settings.validate_split, PROTOCOLS[settings.validate_protocol]
    questions, longest = _read(questions_file(place), split, protocol.shots > 0), context_length(read_config(folder))
    chosen = choose_questions(questions, split, settings.validate_tasks, settings.validate_limit, settings.seed)
    groups = [make_group((protocol,), 0, found, choose_shots(questions, task, protocol, 0, settings.seed, split), tokenizer,
                         longest) for task, found in chosen.items()]
    return Validation(settings, groups, tokenizer, (questions_file(place), split), input_key(place))
