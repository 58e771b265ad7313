"""Tokens as text, while they come: whole characters only, and nothing of what begins a stop sequence."""

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "�"


class Text:
    """The text of a growing list of tokens. ``stopped``: a stop sequence was met; the text ends before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self.given = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What may be shown now that it was not before."""
        self._tokens.append(token)
        return self._show(self._whole(), final=False)

    def rest(self) -> str:
        """What was held back, now that nothing follows."""
        return "" if self.stopped else self._show(self._whole(), final=True)

    def _whole(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _show(self, whole: str, final: bool) -> str:
        ends = [whole.find(stop) for stop in self._stops if stop in whole]
        if ends:
            self.stopped, whole = True, whole[:min(ends)]
        elif not final:
            whole = whole.rstrip(_UNFINISHED)
            whole = whole[:len(whole) - max((_begun(whole, stop) for stop in self._stops), default=0)]
        new = whole[len(self.given):]
        self.given = max(self.given, whole, key=len)
        return new


def _begun(text: str, stop: str) -> int:
    """How many characters at a text's end begin a stop sequence."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class Pieces:
    """Single tokens as text, with the space that some tokenizers drop at the beginning of a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _anchor(self) -> tuple[int, int]:
        """A token to stand before another, and how long its text is."""
        token = int(self._tokenizer.encode(":", add_special_tokens=False)[-1])
        return token, len(self._decoded([token]))

    def of(self, token: int) -> str:
        """The text that a token adds to another; of a part of a character its name in the vocabulary."""
        anchor, length = self._anchor
        text = self._decoded([anchor, token])[length:]
        return str(self._tokenizer.convert_ids_to_tokens(token)) if _UNFINISHED in text else text

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
