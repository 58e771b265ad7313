"""Questions as requests: what is sent for each protocol."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

from biomistral.endpoint.account import estimated_tokens
from biomistral.endpoint.client import Request
from biomistral.evaluation.api.replies import read_echo, read_letters, read_words
from biomistral.evaluation.plan import passes
from biomistral.evaluation.settings import EvaluateSettings
from biomistral.recipe import canonical_hash
from biomistral.records import Question
from biomistral.scoring.prompts import Protocol, build_messages, build_prompt, cloze_continuations, in_words

Way = Literal["letters", "words", "echo"]
"""What is read of a reply: the likeliest first tokens, its text, or the probability of the prompt's own end."""

AskId = tuple[str, int, tuple[str, str], int]
"""Protocol, shot set, language and id of the question, permutation."""

READERS = {"letters": read_letters, "words": read_words, "echo": read_echo}


@dataclass(frozen=True)
class Ask:
    """One question behind its shots, under protocols that read the same reply."""

    protocols: tuple[Protocol, ...]
    shot_set: int
    question: Question
    shots: tuple[Question, ...]

    @cached_property
    def prompt(self) -> str:
        """A text; of a chat its turns, as JSON: the server has the template."""
        if self.protocols[0].chat:
            return json.dumps(build_messages(self.question, self.shots, self.protocols[0]), ensure_ascii=False)
        return build_prompt(self.question, self.shots, self.protocols[0])

    @property
    def id(self) -> AskId:
        return self.protocols[0].name, self.shot_set, self.question.identity, self.question.meta.get("permutation", 0)

    @property
    def way(self) -> Way:
        return "words" if self.protocols[0].by_text else "letters" if self.protocols[0].by_letter else "echo"

    @property
    def route(self) -> str:
        return "chat/completions" if self.protocols[0].chat else "completions"

    def in_words(self) -> "Ask":
        """The same, to be answered in words."""
        return replace(self, protocols=tuple(map(in_words, self.protocols)))

    def with_fewer(self) -> "Ask":
        """The same behind a shot less."""
        return replace(self, shots=self.shots[:-1])


def asks_of(questions: Sequence[Question], settings: EvaluateSettings) -> Iterator[Ask]:
    """Everything that the settings ask.

    Raises:
        UserError: there is nothing to ask, or there are no shots.
    """
    for one in passes(questions, settings):
        for (shot_set, shots), question in product(one.shots.items(), one.questions):
            yield Ask(one.protocols, shot_set, question, tuple(shots))


@dataclass(frozen=True)
class Served:
    """A model as a server has it: its name there, and fields that all its requests have besides, or (None) have not."""

    name: str
    more: dict[str, Any]

    def body(self, **fields: Any) -> dict[str, Any]:
        return {name: value for name, value in {"model": self.name, **fields, **self.more}.items() if value is not None}


def requests_of(ask: Ask, served: Served, top: int) -> list[Request]:
    """What is sent for an ask: one request, or one for each option whose likelihood is asked. Nothing is drawn."""
    body = served.body(max_tokens=ask.protocols[0].longest or 1, temperature=0)
    if ask.way == "echo":
        return [_request(ask, {**body, "prompt": ask.prompt + option, "echo": True, "logprobs": 1})
                for option in cloze_continuations(ask.question, ask.protocols[0])]
    if ask.route == "completions":
        return [_request(ask, {**body, "prompt": ask.prompt, **({"logprobs": top} if ask.way == "letters" else {})})]
    more = {"logprobs": True, "top_logprobs": top} if ask.way == "letters" else {}
    return [_request(ask, {**body, "messages": json.loads(ask.prompt), **more})]


def _request(ask: Ask, body: dict[str, Any]) -> Request:
    """A request under a key that its content gives: the same question is never sent twice."""
    return Request(canonical_hash([ask.route, body])[:32], ask.route, body, estimated_tokens(body.get("prompt") or ask.prompt),
                   ask.protocols[0].longest or 1, READERS[ask.way])
