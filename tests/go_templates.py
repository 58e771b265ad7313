"""As much of Go's text/template as Ollama's chat templates here need: an interpreter written from Go's description."""

import re
from typing import Any

_ACTION = re.compile(r"{{(-?)\s*((?:\"[^\"]*\"|[^\"}]|}(?!}))*?)\s*(-?)}}", re.DOTALL)


def render(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of a conversation: ``.System`` is the system messages, which stand among ``.Messages`` too."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    tokens = _cut(template)
    out: list[str] = []
    filled = {"System": system, "Messages": [{"Role": message["role"], "Content": message["content"]} for message in messages]}
    rest = _run(tokens, 0, {"$": filled}, out)
    assert rest == len(tokens), "an {{ end }} too many"
    return "".join(out)


def _cut(template: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while (start := template.find("{{", place)) >= 0:
        action = _ACTION.match(template, start)
        assert action, f"not an action: {template[start:start + 40]!r}"
        assert not action[1] + action[3], "trims white space"
        found += [("text", template[place:start]), ("action", action[2])]
        place = action.end()
    return [*found, ("text", template[place:])]


def _run(tokens: list[tuple[str, str]], place: int, scope: dict[str, Any], out: list[str]) -> int:
    """Carry out a list of tokens up to the ``else`` or ``end`` it does not own; returns where that is."""
    while place < len(tokens):
        kind, word = tokens[place]
        if kind == "text":
            out.append(word)
        elif word == "end" or word.startswith("else"):
            return place
        elif word.startswith("if "):
            place = _choose(tokens, place, scope, out)
        elif word.startswith("range "):
            place = _repeat(tokens, place, scope, out)
        else:
            out.append(str(_value(word, scope)))
        place += 1
    return place


def _choose(tokens: list[tuple[str, str]], place: int, scope: dict[str, Any], out: list[str]) -> int:
    taken, condition = False, tokens[place][1].removeprefix("if ")
    while True:
        holds = not taken and (not condition or bool(_value(condition, scope)))
        place = _run(tokens, place + 1, scope, out if holds else [])
        taken = taken or holds
        if tokens[place][1] == "end":
            return place
        condition = tokens[place][1].removeprefix("else").strip().removeprefix("if ")


def _repeat(tokens: list[tuple[str, str]], place: int, scope: dict[str, Any], out: list[str]) -> int:
    number, item, what = re.fullmatch(r"range (\$\w+), (\$\w+) := (.+)", tokens[place][1]).groups()  # type: ignore[union-attr]
    end = place
    for at, value in enumerate(_value(what, scope)):
        end = _run(tokens, place + 1, {**scope, number: at, item: value}, out)
    return end


def _value(expression: str, scope: dict[str, Any]) -> Any:
    words = re.findall(r"\"[^\"]*\"|\(|\)|[^\s()]+", expression)
    value, rest = _operand(words, scope) if words[0] not in _FUNCTIONS else _call(words, scope)
    assert not rest, expression
    return value


def _operand(words: list[str], scope: dict[str, Any]) -> tuple[Any, list[str]]:
    first, rest = words[0], words[1:]
    if first == "(":
        value, rest = _call(rest, scope)
        assert rest[0] == ")"
        return value, rest[1:]
    if first.startswith('"'):
        return first[1:-1], rest
    if first.isdigit():
        return int(first), rest
    name, *fields = (f"${first}" if first.startswith(".") else first).split(".")
    assert name in scope, f"not an operand: {first}"
    value = scope[name]
    for field in fields:
        value = value[field]
    return value, rest


_FUNCTIONS = {"eq": lambda a, b: a == b, "not": lambda a: not a, "and": lambda a, b: a and b}


def _call(words: list[str], scope: dict[str, Any]) -> tuple[Any, list[str]]:
    function, rest, values = _FUNCTIONS[words[0]], words[1:], []
    while rest and rest[0] != ")":
        value, rest = _operand(rest, scope)
        values.append(value)
    return function(*values), rest
