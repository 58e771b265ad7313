"""A quantised model beside its 16-bit original on the same questions: distributions over the options, answers, accuracy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.folder import read_config
from biomistral.models.load import load_tokenizer
from biomistral.progress import bar
from biomistral.quantization.settings import QuantizeSettings
from biomistral.scoring.engine import Engine, batches
from biomistral.scoring.groups import Group, context_length, make_group
from biomistral.scoring.prompts import PROTOCOLS, choose_shots
from biomistral.scoring.questions import choose_questions, read_benchmark
from biomistral.scoring.rows import answer_rows
from biomistral.scoring.tally import Row, split_by
from biomistral.seeds import seed
from biomistral.statistics import mcnemar, paired_difference

_SHOT_SETS = 3
_LEAST = 1e-12  # of a probability, so that its logarithm is a number


def groups_of(place: Path, model: Path, settings: QuantizeSettings) -> list[Group]:
    """The questions of the settings, tokenised and checked, as the ``evaluate`` stage would ask them.

    Raises:
        UserError: they are not sound, or the model cannot read them.
    """
    questions, protocol = read_benchmark(place), PROTOCOLS[settings.protocol]
    tokenizer, longest = load_tokenizer(model), context_length(read_config(model))
    return [make_group((protocol,), shot_set, found,
                       choose_shots(questions, task, protocol, shot_set, settings.seed, settings.split), tokenizer, longest)
            for task, found in choose_questions(questions, settings.split, [], settings.limit, settings.seed).items()
            for shot_set in range(_SHOT_SETS if protocol.drawn else 1)]


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, groups: Sequence[Group], name: str) -> Iterator[Row]:
    """The model's answers, as `biomistral.records.ANSWER_SCHEMA` has them.

    Raises:
        UserError: its logits are not finite.
    """
    engine = Engine(model)
    with bar(f"asking {name}", sum(len(group.items) for group in groups)) as progress:
        for group in groups:
            rows = [item.prompt for item in group.items]
            shared = engine.shared_length(rows)
            prefix = engine.prefix(rows[0][:shared])
            costs = [engine.cost(len(item.prompt) - shared, shared) for item in group.items]
            for batch in batches(costs, engine.max_batch_tokens):
                yield from answer_rows(engine, prefix, group, batch, tokenizer, name)
                progress.advance(len(batch))
    engine.give_back()


def compare_answers(reference: Sequence[Row], quantized: Sequence[Row], root: int = 0) -> dict[str, Any]:
    """What changed between two models' answers to the same questions under one protocol.

    ``distribution``: KL(16-bit || quantised) over the options, in nats, and the share of answers whose option changed;
    ``accuracy``: of both, and the difference over the same questions with its 95 % interval and McNemar's exact p.

    Raises:
        UserError: the questions or how they were put differ.
    """
    mine, theirs = ({(row["question"], row["shot_set"]): row for row in rows} for rows in (quantized, reference))
    if mine.keys() != theirs.keys() or any(row["prompt_hash"] != theirs[key]["prompt_hash"] for key, row in mine.items()):
        raise UserError("the two models were not asked the same questions with the same prompts; measure again")
    keys = sorted(theirs)
    divergence = np.array([_divergence(theirs[key]["probabilities"], mine[key]["probabilities"]) for key in keys])
    flips = np.array([theirs[key]["chosen"] != mine[key]["chosen"] for key in keys])
    before, after = (_by_question([rows[key] for key in keys]) for rows in (theirs, mine))
    difference, low, high = paired_difference(after, before, seed(root, "quantize", "answers"))
    return {
        "questions": len(before),
        "distribution": {"kl_divergence": {"mean": float(divergence.mean()), "p99": float(np.quantile(divergence, 0.99))},
                         "flips": float(flips.mean())},
        "accuracy": {"reference": float(before.mean()), "quantized": float(after.mean()), "difference": difference,
                     "interval": [low, high], "p": mcnemar(int((after > before).sum()), int((after < before).sum()))},
    }


def seconds_per_question(rows: Sequence[Row]) -> float:
    """Mean seconds of an answer: a fact of the machine, batches as its evaluation makes them."""
    return float(np.mean([row["seconds"] for row in rows]))


def _divergence(p: Sequence[float], q: Sequence[float]) -> float:
    exact, rounded = (np.maximum(np.asarray(values, dtype=np.float64), _LEAST) for values in (p, q))
    return max(0.0, float((exact * np.log(exact / rounded)).sum()))


def _by_question(rows: Sequence[Row]) -> Any:
    return np.array([np.mean([row["right"] for row in found]) for found in split_by(rows, "question").values()])
