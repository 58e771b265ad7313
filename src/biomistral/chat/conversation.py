"""Turns of a conversation: as the model's template puts them, cut where the context ends, kept in a file."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.files import write_json

PLAIN = ("{% for m in messages %}{{ m['role'].capitalize() + ': ' + m['content'] + '\\n' }}{% endfor %}"
         "{% if add_generation_prompt %}Assistant:{% endif %}")
"""For models without a template of their own."""


class Turn(BaseModel):
    role: str
    content: str


class Conversation(BaseModel):
    """Who said what, and what the model is told before it (``system``)."""

    model: str = ""
    system: str = ""
    turns: list[Turn] = []

    @classmethod
    def read(cls, path: Path) -> "Conversation":
        """
        Raises:
            UserError: the file is no conversation.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a conversation saved by 'biomistral chat'; name a new file with --save") from error

    def save(self, path: Path) -> None:
        write_json(path, self.model_dump())

    def prompt(self, tokenizer: PreTrainedTokenizerBase, most: int) -> tuple[list[int], int]:
        """The tokens of a prompt for the next answer, of at most ``most``; also how many of the oldest turns were left out.

        Raises:
            UserError: the last turn alone is longer; the template refuses the turns.
        """
        for start in range(0, len(self.turns), 2):
            ids = encode(tokenizer, self._messages(start))
            if len(ids) <= most:
                return ids, start
        raise UserError(f"this message takes {len(ids)} tokens, the model's context leaves {most}; send a shorter one")

    def _messages(self, start: int) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *(turn.model_dump() for turn in self.turns[start:])]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """Turns as the model's template puts them (as plain lines where it has none), ready for an answer.

    Raises:
        UserError: the template refuses them.
    """
    import jinja2

    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True,
                                             chat_template=tokenizer.chat_template or PLAIN)
    except jinja2.TemplateError as error:
        raise UserError(f"the model's chat template refuses these turns: {error}") from error
    own = tokenizer.chat_template is None
    return list(tokenizer(text, add_special_tokens=own)["input_ids"])
