"""What translates: one interface over servers, models, programs and people."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

TEXT = "text"
"""Name of the only field of a piece that is a text by itself."""


@dataclass(frozen=True)
class Piece:
    """What an engine gets at once: texts by name, from one language into another (ISO 639-1).

    ``wording``: 0, or how often this was asked before; ``faults``: why the last answer was sent back; ``item``: task and id of
    the question, for who looks translations up instead of making them.
    """

    fields: Fields
    source: str
    target: str
    wording: int = 0
    faults: tuple[str, ...] = ()
    item: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Answer:
    """What came back: the texts that could be read, what is wrong with the answer itself, and the tokens it took."""

    fields: Fields
    faults: tuple[Reason, ...] = ()
    tokens: tuple[int, int] = (0, 0)


Deliver = Callable[[Piece, Answer], None]


class Engine(ABC):
    """Who translates. ``identity`` is plain data that says which engine, model (by content where it lies here), version and
    prompt: it goes into the keys of what is remembered, and into the manifest."""

    identity: dict[str, Any]
    together: bool = False
    """Whether the fields of a question go in one piece; else each sentence is a piece."""
    rewords: bool = False
    """Whether asking again, with the reasons, can give another answer."""
    charges: bool = False
    """Whether translations may cost money."""
    purse: str = ""
    """Which of the account's servers is paid for its answers ("": the first)."""
    by_item: bool = False
    """Whether translations are looked up by question, not made: nothing to remember, and nobody to translate back."""
    longest: int = 600
    """Most characters of a piece."""

    def fits(self, text: str) -> bool:
        """Whether it takes a text at once; models count in tokens besides."""
        return len(text) <= self.longest

    @abstractmethod
    def can(self, source: str, target: str) -> bool:
        """Whether it translates in this direction."""

    @abstractmethod
    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        """Translate, and hand every answer over as soon as it is there, in any order.

        What is wrong with an answer is a `Reason` in it.

        Raises:
            UserError: the engine itself cannot be used, or may not (a budget); what was delivered stands.
        """

    def foresee(self, pieces: Sequence[Piece], binding: bool = False) -> str:
        """What that will take at most, in words, before it begins.

        Raises:
            UserError: it may not take that much, and the estimate is ``binding``.
        """
        return f"{len(pieces):,} pieces, {sum(len(text) for piece in pieces for text in piece.fields.values()):,} characters"


class TextEngine(Engine):
    """An engine of texts: what `translations` gives are the answers, in order."""

    @abstractmethod
    def translations(self, texts: Sequence[str], source: str, target: str) -> Iterable[str]:
        """Each text translated, as they are made."""

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        for direction in dict.fromkeys((piece.source, piece.target) for piece in pieces):
            own = [piece for piece in pieces if (piece.source, piece.target) == direction]
            for piece, text in zip(own, self.translations([piece.fields[TEXT] for piece in own], *direction), strict=True):
                faults = () if text.strip() else (Reason("no_answer", "", f"nothing for {piece.fields[TEXT][:60]!r}"),)
                deliver(piece, Answer({TEXT: text.strip()}, faults))
