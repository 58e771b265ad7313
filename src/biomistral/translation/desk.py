"""Asking engines by way of the memory: only what nobody has translated yet is sent."""

from collections.abc import Sequence
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


@dataclass
class Desk:
    """``remembered`` and ``made`` count pieces that were known and pieces that were asked for; ``kept`` is both."""

    memory: Memory
    run: str
    remembered: int = 0
    made: int = 0
    said: set[str] = field(default_factory=set)
    """Estimates that were said: the first is said before anything begins, and again where it is the first round's."""

    def translate(self, engine: Engine, orders: Sequence[Order]) -> list[tuple[Fields, list[Reason]]]:
        """Each order's translated fields, and what is wrong with the engine's answers.

        Raises:
            UserError: see `Engine.translate`; what was answered is remembered.
        """
        plans = [[(part, _piece(order, part.fields)) for part in cut(order.fields, engine)] for order in orders]
        keys = [[self._key(engine, piece) for _, piece in plan] for plan in plans]
        answers = self._answers(engine, {key: piece for plan, own in zip(plans, keys, strict=True)
                                         for (_, piece), key in zip(plan, own, strict=True)})
        return [joined([part for part, _ in plan], [answers[key] for key in own], list(order.fields), order.source, order.target)
                for order, plan, own in zip(orders, plans, keys, strict=True)]

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

    def _answers(self, engine: Engine, wanted: dict[str, Piece]) -> dict[str, Answer]:
        found = self.memory.get(wanted) if not engine.by_item else {}
        pieces = [piece for key, piece in wanted.items() if key not in found]
        names = {id(piece): key for key, piece in wanted.items()}  # pieces hold dictionaries, which have no hash
        self.remembered += len(found)
        if not pieces:
            return found
        self._say(engine, pieces, len(found))
        with bar(f"{engine.identity['engine']} to {pieces[0].target}", len(pieces)) as progress:
            def deliver(piece: Piece, answer: Answer) -> None:
                key = names[id(piece)]
                found[key] = answer
                self.made += 1
                if not engine.by_item:
                    self.memory.put(key, answer, self.run + engine.purse)
                progress.advance()

            engine.translate(pieces, deliver)
        return found


def _piece(order: Order, fields: Fields) -> Piece:
    return Piece(fields, order.source, order.target, order.wording, order.faults, order.item)
