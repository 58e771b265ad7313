"""Asking engines by way of the memory: only what nobody has translated yet is sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from biomistral.progress import bar, log
from biomistral.translation.cutting import cut, joined
from biomistral.translation.engine import Answer, Engine, Piece
from biomistral.translation.fields import Fields
from biomistral.translation.memory import Memory, key_of
from biomistral.translation.reasons import Reason


@dataclass(frozen=True)
class Order:
    """The fields of one question, to be translated; the rest as `Piece` has it."""

    item: tuple[str, str]
    fields: Fields
    source: str
    target: str
    wording: int = 0
    faults: tuple[str, ...] = ()


Ready = Callable[[int, Fields, list[Reason]], None]
"""Told the number of an order, its translated fields, and what is wrong with the engine's answers."""


@dataclass
class Desk:
    """``remembered`` and ``made`` count pieces that were known and pieces that were asked for; ``kept`` is both."""

    memory: Memory
    run: str
    remembered: int = 0
    made: int = 0
    said: set[str] = field(default_factory=set)
    """Estimates that were said: the first is said before anything begins, and again where it is the first round's."""

    def translate(self, engine: Engine, orders: Sequence[Order], ready: Ready) -> None:
        """Have all orders translated; each is handed over as soon as its last piece is there, while others are on their way.

        Raises:
            UserError: see `Engine.translate`; what was answered is remembered.
        """
        plans = [[(part, _piece(order, part.fields)) for part in cut(order.fields, engine)] for order in orders]
        keys = [[self._key(engine, piece) for _, piece in plan] for plan in plans]
        answers: dict[str, Answer] = {}

        def whole(number: int) -> None:
            order, parts = orders[number], [part for part, _ in plans[number]]
            ready(number, *joined(parts, [answers[key] for key in keys[number]], list(order.fields), order.source, order.target))

        counter = _Counter(keys, whole)

        def answered(key: str, answer: Answer) -> None:
            answers[key] = answer
            counter.there(key)

        counter.begin()
        wanted = {key: piece for plan, own in zip(plans, keys, strict=True) for (_, piece), key in zip(plan, own, strict=True)}
        self._answer(engine, wanted, answered)
        assert answers.keys() == wanted.keys(), "an engine answers every piece"

    @property
    def kept(self) -> int:
        return self.remembered + self.made

    def foresee(self, engine: Engine, orders: Sequence[Order], binding: bool = False) -> None:
        """Say what an engine will take for what is not remembered.

        Raises:
            UserError: see `Engine.foresee`.
        """
        pieces = [_piece(order, part.fields) for order in orders for part in cut(order.fields, engine)]
        wanted = {self._key(engine, piece): piece for piece in pieces}
        known = self.memory.get(wanted) if not engine.by_item else {}
        self._say(engine, [piece for key, piece in wanted.items() if key not in known], len(known), binding)

    def _say(self, engine: Engine, pieces: Sequence[Piece], known: int, binding: bool = False) -> None:
        if not pieces:
            return
        said = (f"{engine.identity['engine']} to {pieces[0].target}: {engine.foresee(pieces, binding)}"
                + (f" ({known:,} were translated before)" if known else ""))
        if said not in self.said:
            log.info("%s", said)
        self.said.add(said)

    @staticmethod
    def _key(engine: Engine, piece: Piece) -> str:
        return key_of(engine, piece) if not engine.by_item else "\x1f".join(piece.item)

    def _answer(self, engine: Engine, wanted: dict[str, Piece], answered: Callable[[str, Answer], None]) -> None:
        found = self.memory.get(wanted) if not engine.by_item else {}
        names = {id(piece): key for key, piece in wanted.items()}  # pieces hold dictionaries, which have no hash
        self.remembered += len(found)
        for key, answer in found.items():
            answered(key, answer)
        pieces = [piece for key, piece in wanted.items() if key not in found]
        if not pieces:
            return
        self._say(engine, pieces, len(found))
        with bar(f"{engine.identity['engine']} to {pieces[0].target}", len(pieces)) as progress:
            def deliver(piece: Piece, answer: Answer) -> None:
                key = names[id(piece)]
                self.made += 1
                if not engine.by_item:
                    self.memory.put(key, answer, self.run + engine.purse)
                answered(key, answer)
                progress.advance()

            engine.translate(pieces, deliver)


class _Counter:
    """Which orders have all their keys; a key may be of several orders, and several times of one."""

    def __init__(self, keys: Sequence[Sequence[str]], whole: Callable[[int], None]) -> None:
        self._whole = whole
        self._missing = [len(set(own)) for own in keys]
        self._orders: dict[str, list[int]] = {}
        for number, own in enumerate(keys):
            for key in set(own):
                self._orders.setdefault(key, []).append(number)

    def begin(self) -> None:
        """Orders without any text are whole from the beginning."""
        for number, missing in enumerate(self._missing):
            if not missing:
                self._whole(number)

    def there(self, key: str) -> None:
        for number in self._orders[key]:
            self._missing[number] -= 1
            if not self._missing[number]:
                self._whole(number)


def _piece(order: Order, fields: Fields) -> Piece:
    return Piece(fields, order.source, order.target, order.wording, order.faults, order.item)
