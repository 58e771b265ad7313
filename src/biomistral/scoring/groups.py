"""Questions ready to be asked, fixed and checked before a weight is loaded: prompts, tokens, letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.letters import encode, letter_tokens
from biomistral.records import Question
from biomistral.scoring.prompts import Protocol, build_prompt, cloze_continuations
from biomistral.scoring.score import Item, cloze_item

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


def make_group(protocols: tuple[Protocol, ...], shot_set: int, questions: list[Question], shots: Sequence[Question],
               tokenizer: PreTrainedTokenizerBase, longest: int | None) -> Group:
    """Tokenise one task's questions behind their shots; ``longest`` is what the model can read (None: any length).

    Raises:
        UserError: a letter is not one token, an option adds none, or a prompt does not fit the model.
    """
    group = _tokenised(protocols, shot_set, questions, shots, tokenizer)
    for item in group.items:
        length = len(item.prompt) + max(map(len, item.options), default=0)
        if longest is not None and length > longest:
            raise UserError(f"question {item.id!r}: its prompt under {protocols[0].name} has {length} tokens, this model "
                            f"reads {longest}; use fewer shots, leave the question out or evaluate a model with a longer context")
    return group


def _tokenised(protocols: tuple[Protocol, ...], shot_set: int, questions: list[Question], shots: Sequence[Question],
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


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model can read, from its ``config.json``; None if that does not say."""
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None
