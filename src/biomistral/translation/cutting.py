"""A question's fields as pieces that an engine takes, and the answers as fields again."""

from collections.abc import Sequence
from dataclasses import dataclass

from biomistral.languages import SPACELESS
from biomistral.translation.engine import TEXT, Answer, Engine
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason
from biomistral.translation.sentences import pieces


@dataclass(frozen=True)
class Part:
    """What goes to the engine: several whole fields, or (``of``) a part of one, with the white space that stood behind it."""

    fields: Fields
    of: str = ""
    gap: str = ""


def cut(fields: Fields, engine: Engine) -> list[Part]:
    """Fields that are not too long go together where the engine takes them so; all others sentence by sentence, or by as many
    sentences as it takes."""
    if not engine.together:
        return [Part({TEXT: text}, name, gap) for name in fields for text, gap in _texts(fields[name], engine)]
    short = {name: text for name, text in fields.items() if len(text) <= engine.longest // 2}
    if sum(map(len, fields.values())) <= engine.longest:
        short = fields
    long = [Part({name: text}, name, gap) for name in fields if name not in short for text, gap in _texts(fields[name], engine)]
    return [Part(short), *long] if short else long


def _texts(text: str, engine: Engine) -> list[tuple[str, str]]:
    return [(piece, gap) for piece, gap in pieces(text.strip(), engine.fits, engine.together) if piece.strip()]


def joined(parts: Sequence[Part], answers: Sequence[Answer], order: Sequence[str], source: str,
           target: str) -> tuple[Fields, list[Reason]]:
    """The translated fields in the question's order, and what is wrong with the answers."""
    fields: Fields = {}
    faults = [Reason(fault.check, fault.field or part.of, fault.detail)
              for part, answer in zip(parts, answers, strict=True) for fault in answer.faults]
    behind: dict[str, str] = {}
    for part, answer in zip(parts, answers, strict=True):
        if not part.of:
            fields |= answer.fields
            continue
        text = answer.fields.get(next(iter(part.fields)), "")
        fields[part.of] = fields.get(part.of, "") + behind.get(part.of, "") + text
        behind[part.of] = _gap(part.gap, source, target)
    return {name: fields[name] for name in order if name in fields}, faults


def _gap(gap: str, source: str, target: str) -> str:
    """White space between sentences as the other language has it; lines stay lines."""
    if "\n" in gap:
        return gap
    if target in SPACELESS:
        return ""
    return " " if source in SPACELESS else gap
