"""A server that translates a few sentences, in a process of its own; with faults of the server and faults of the model to order.

    python translation_server.py '{"struck_share": 0.1, "faults": ["429", "drop"], "said": {"12": "fence"}}'

``struck_share``: share of the requests (by their body) that each of ``faults`` strikes once; ``said``: what is wrong with the
first answer (``always:...``: every answer) to questions that hold a number.
"""

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from completions_server import Handler as CompletionsHandler
from completions_server import Server
from completions_server import State as CompletionsState

SENTENCES = [
    ("Which structure passes through opening {n} of the skull?", "Que estrutura passa pela abertura {n} do crânio?"),
    ("The patient is {n} years old and has had severe pain in the chest since yesterday.",
     "O paciente tem {n} anos e sente dor intensa no peito desde ontem."),
    ("the facial nerve", "o nervo facial"), ("the vagus nerve", "o nervo vago"), ("the optic nerve", "o nervo óptico"),
    ("the hypoglossal nerve", "o nervo hipoglosso"),
]
ENGLISH_MARK = "from Portuguese into English"


def translated(text: str, backwards: bool) -> str:
    """A text of those sentences in the other language; others stay."""
    for pair in SENTENCES:
        here, there = reversed(pair) if backwards else pair
        pattern = re.escape(here).replace(r"\{n\}", r"(?P<n>\d+)")
        text = re.sub(pattern, lambda found, there=there: there.replace("{n}", found.groupdict().get("n") or ""), text)
    return text


@dataclass
class State(CompletionsState):
    struck_share: float = 1.0
    said: dict[str, str] = field(default_factory=dict)
    formats: bool = True


class Handler(CompletionsHandler):
    def fault(self, name: str, body: dict[str, Any]) -> None:
        whole = hashlib.sha256(json.dumps(body).encode()).digest()[0] / 256
        if whole < self.state.struck_share:
            super().fault(name, body)
        else:
            self.answer(json.dumps(body))

    def answer(self, raw: str) -> None:
        if "response_format" in raw and not self.state.formats:
            self.reply(400, {"error": {"message": "response_format: not supported here"}})
        else:
            super().answer(raw)

    def completed(self, body: dict[str, Any]) -> dict[str, Any]:
        system, user = (turn["content"] for turn in body["messages"])
        fields = {name: translated(text, ENGLISH_MARK in system) for name, text in json.loads(user).items()}
        text = self.spoilt(fields, system, user)
        usage = {"prompt_tokens": len(system.split()) + len(user.split()), "completion_tokens": len(text.split())}
        return {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                                        "finish_reason": "stop"}], "usage": usage}

    def spoilt(self, fields: dict[str, str], system: str, user: str) -> str:
        plain = json.dumps(fields, ensure_ascii=False)
        number = re.search(r"\d+", fields.get("stem", ""))
        kind = self.state.said.get(number[0], "") if number and ENGLISH_MARK not in system else ""
        if "sent back" in system and not kind.startswith("always:"):
            return plain
        return {
            "": lambda: plain,
            "fence": lambda: f"```json\n{plain}\n```",
            "fewer": lambda: json.dumps({name: text for name, text in fields.items() if name != "B"}),
            "swapped": lambda: json.dumps(fields | {"A": fields["B"], "B": fields["A"]}),
            "html": lambda: f"<html><body>{plain}</body></html>",
            "words": lambda: f"Here is the translation you asked for:\n\n{plain}",
            "not-json": lambda: plain[:-10],
            "list": lambda: json.dumps(list(fields.values())),
            "language": lambda: user,
            "refusal": lambda: "As an AI language model, I cannot translate medical content.",
            "number": lambda: json.dumps(fields | {"stem": fields["stem"].replace(number[0], "999")}),  # type: ignore[index]
            "empty": lambda: json.dumps(fields | {"C": " "}),
            "object": lambda: json.dumps(fields | {"C": {"text": fields["C"]}}),
            "twice": lambda: json.dumps(fields | {"B": fields["A"]}),
            "surrogate": lambda: json.dumps(fields | {"C": "\ud83d"}),
            "nothing": lambda: "",
        }[kind.removeprefix("always:")]()


if __name__ == "__main__":
    Handler.state = State(**json.loads(sys.argv[1]))
    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
