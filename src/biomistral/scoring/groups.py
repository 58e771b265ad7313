"""Questions ready to be asked, fixed and checked before a weight is loaded: prompts, tokens, letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from biomistral.errors import UserError
from biomistral.models.letters import encode, letter_tokens
from biomistral.models.tokens import Tokenizer
from biomistral.records import Question
from biomistral.scoring.prompts import Protocol, build_messages, build_prompt, cloze_continuations
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
    num_shots: int = 0


def too_long(group: Group, longest: int | None) -> list[int]:
    """Places of the questions whose prompt and answer have more tokens than a model reads."""
    room = group.protocols[0].longest
    return [place for place, item in enumerate(group.items)
            if longest is not None and len(item.prompt) + max(map(len, item.options), default=0) + room > longest]


def make_group(protocols: tuple[Protocol, ...], shot_set: int, questions: list[Question], shots: Sequence[Question],
               tokenizer: Tokenizer, longest: int | None) -> Group:
    """Tokenise one task's questions behind their shots; ``longest`` is what the model can read (None: any length).

    Raises:
        UserError: a letter is not one token, an option adds none, or a prompt does not fit the model.
    """
    group = tokenised(protocols, shot_set, questions, shots, tokenizer)
    for place in too_long(group, longest):
        item = group.items[place]
        length = len(item.prompt) + max(map(len, item.options), default=0) + protocols[0].longest
        where = "" if questions[place].language == "en" else f" in '{questions[place].language}'"
        raise UserError(f"question {item.id!r}{where}: its prompt under {protocols[0].name} has {length} tokens, this model "
                        f"reads {longest}; use fewer shots, leave the question out or evaluate a model with a longer context "
                        "(evaluate: --too-long drop or fewer-shots)")
    return group


def prompt_text(question: Question, shots: Sequence[Question], protocol: Protocol, tokenizer: Tokenizer) -> str:
    """The text a model is given; ``chat`` protocols through the model's own template, up to where its answer begins.

    Raises:
        UserError: the tokenizer has no chat template, or it refuses these turns.
    """
    if not protocol.chat:
        return build_prompt(question, shots, protocol)
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: has no chat template, which {protocol.name} needs; choose a protocol without "
                        "chat")
    try:
        return str(tokenizer.apply_chat_template(build_messages(question, shots, protocol), tokenize=False,
                                                 add_generation_prompt=True))
    except TemplateError as error:
        raise UserError(f"{tokenizer.name_or_path}: its chat template refuses {protocol.name} ({error})") from error


def tokenised(protocols: tuple[Protocol, ...], shot_set: int, questions: list[Question], shots: Sequence[Question],
              tokenizer: Tokenizer) -> Group:
    """A group of any length, see `make_group`."""
    prompts = [prompt_text(question, shots, protocols[0], tokenizer) for question in questions]
    ids = encode(tokenizer, prompts)
    if protocols[0].by_letter:
        items = [Item(question.id, tuple(own), ()) for question, own in zip(questions, ids, strict=True)]
        most = max((question.letters for question in questions), key=len)
        letters = [] if protocols[0].by_text else _proved(questions[0], prompts[0], tokenizer, most)
        return Group(protocols, shot_set, questions, prompts, items, letters, len(shots))
    items = []
    for question, prompt, own in zip(questions, prompts, ids, strict=True):
        joint = encode(tokenizer, [prompt + option for option in cloze_continuations(question, protocols[0])])
        items.append(cloze_item(question.id, own, joint))
    return Group(protocols, shot_set, questions, prompts, items, [], len(shots))


def _proved(question: Question, prompt: str, tokenizer: Tokenizer, letters: str) -> LetterTokens:
    """The tokens of the letters behind a prompt; those behind the other questions of a group end alike.

    Raises:
        UserError: see `letter_tokens`.
    """
    try:
        return letter_tokens(tokenizer, prompt, letters)
    except UserError as error:
        raise UserError(f"question {question.id!r}: {error}") from error


def context_length(config: dict[str, Any]) -> int | None:
    """How many tokens the model can read, from its ``config.json``; None if that does not say."""
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None
