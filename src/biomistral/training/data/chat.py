"""Conversations through the model's own chat template, cut where the assistant begins and ends."""

from collections.abc import Iterator

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.training.data.jsonl import Example


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The conversation as text in pieces, each with whether the model is to learn to write it.

    What stands before an assistant's turn is the template's rendering up to there with its generation prompt, which is
    what the model is shown at inference; the turn itself is what is then added. Joined, the pieces are the rendering of
    the whole conversation.

    Raises:
        UserError: the model has no chat template, or it refuses these messages, or renders a turn differently once more
            turns follow, so that no mask could be right.
    """
    if not tokenizer.chat_template:
        raise UserError(f"{example.place}: holds messages, but the model has no chat template; give prompt and completion, or "
                        "add chat_template.jinja to the model folder")
    whole = _apply(example, tokenizer, len(example.messages), False)
    pieces, done = [], ""
    for text, answer in _cuts(example, tokenizer, whole):
        if not text.startswith(done) or not whole.startswith(text):
            raise UserError(f"{example.place}: the model's chat template renders these turns differently once others follow, so "
                            "it cannot be told which tokens the assistant wrote; give one answer an example (the last turn), "
                            "or prompt and completion")
        if text != done:
            pieces.append((text.removeprefix(done), answer))
        elif answer:
            raise UserError(f"{example.place}: the model's chat template leaves out what the assistant says")
        done = text
    return pieces


def _cuts(example: Example, tokenizer: PreTrainedTokenizerBase, whole: str) -> Iterator[tuple[str, bool]]:
    """Ever longer renderings: before and after each turn of the assistant, then the whole."""
    for number, message in enumerate(example.messages):
        if message["role"] == "assistant":
            yield _apply(example, tokenizer, number, True), False
            yield _apply(example, tokenizer, number + 1, False), True
    yield whole, False


def _apply(example: Example, tokenizer: PreTrainedTokenizerBase, count: int, generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(example.messages[:count]), tokenize=False,
                                                 add_generation_prompt=generation_prompt))
    except TemplateError as error:
        raise UserError(f"{example.place}: the model's chat template refuses these messages ({error})") from error
