"""How a language model is asked for a translation, and what of its answer can be read."""

import json
import re
from collections.abc import Iterator
from typing import Any

from biomistral.languages import language
from biomistral.recipe import canonical_hash
from biomistral.translation.engine import Piece
from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

INSTRUCTION = (
    "You translate medical examination questions from {source} into {target}. You get a JSON object; its values are texts. "
    "Answer with one JSON object that has exactly the same keys in the same order, each value translated into {target}, and with "
    "nothing else: no explanation, no Markdown. Translate every text completely and faithfully, in the terms that physicians "
    "use, with every negation. Never answer the question, and never change which option says what. Keep numbers, units, doses, "
    "names of genes, codes and formulas as they are; give drugs their name in {target}. What is the same in {target} stays as it "
    "is.")
ADVICE = (
    "An earlier translation of this was sent back for these reasons:\n{reasons}\nTranslate it anew, in other words where that "
    "helps, and mend all of them.")
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL | re.IGNORECASE)
_THINKING = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_SHOWN = 80
PROMPT_HASH = canonical_hash([INSTRUCTION, ADVICE])[:16]


def messages(piece: Piece) -> list[dict[str, str]]:
    """The turns of a chat that asks for a piece's translation, with the reasons if it was sent back."""
    said = INSTRUCTION.format(source=language(piece.source).name, target=language(piece.target).name)
    if piece.faults:
        said += "\n\n" + ADVICE.format(reasons="\n".join(f"- {fault}" for fault in piece.faults))
    return [{"role": "system", "content": said},
            {"role": "user", "content": json.dumps(piece.fields, ensure_ascii=False, indent=1)}]


def read(said: str, wanted: Fields) -> tuple[Fields, tuple[Reason, ...]]:
    """The texts in an answer, and what is wrong with it. A fence around the JSON says nothing and is taken off, as is what a
    model thought before; anything else besides the object is a fault."""
    text = _THINKING.sub("", said)
    fenced = _FENCE.match(text)
    try:
        data = json.loads(fenced[1] if fenced else text, strict=False)  # lines in a text are no fault
    except (ValueError, RecursionError) as error:
        return {}, (Reason("not_json", "", f"{error}: {' '.join(said.split())[:_SHOWN]!r}"),)
    if not isinstance(data, dict):
        return {}, (Reason("not_json", "", f"not an object: {' '.join(said.split())[:_SHOWN]!r}"),)
    faults = [Reason("extra", "", f"field {name[:_SHOWN]!r} was not asked for") for name in data if name not in wanted]
    fields: Fields = {}
    for name, value in _texts(data, wanted):
        if isinstance(value, str) and value.strip() and _is_text(value):
            fields[name] = value.strip()
        else:
            faults.append(Reason("not_text", name, f"{str(value)[:_SHOWN]!a} is no text"))
    return fields, tuple(faults)


def _texts(data: dict[str, Any], wanted: Fields) -> Iterator[tuple[str, Any]]:
    """The values that were asked for; a number that is the source's own text is that text."""
    for name, source in wanted.items():
        if name in data:
            value = data[name]
            same = isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) == source.strip()
            yield name, source if same else value


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, from an escape in the JSON
        return False
    return "\x00" not in value
