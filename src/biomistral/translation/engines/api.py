"""Translation by a server that speaks OpenAI's protocol: a question's fields in one request, many requests at once."""

import json
import re
from collections.abc import Sequence
from typing import Any

from biomistral.endpoint.account import Account, estimated_tokens
from biomistral.endpoint.client import RefusedError, Reply, Request
from biomistral.endpoint.crowd import ask_all
from biomistral.endpoint.place import Place, find
from biomistral.recipe import Requests
from biomistral.translation.engine import Answer, Deliver, Engine, Piece
from biomistral.translation.engines.asking import PROMPT_HASH, messages, read
from biomistral.translation.engines.build import Means
from biomistral.translation.reasons import Reason
from biomistral.translation.settings import Translator

_ROUTE = "chat/completions"
_JSON = {"response_format": {"type": "json_object"}}
_ALONE_SECONDS = 1.0
"""How long the very first request goes ahead of the others. A server that takes no ``response_format``, or no key, says so at
once; one that says nothing is translating, and a whole answer may take it ten seconds."""
_FORMAT_REFUSED = re.compile("response_format|json", re.IGNORECASE)
_ANSWER_TOKENS = 2
"""Tokens that a translation may have for each estimated one of the source: other scripts take up to four times as many."""
_LEAST_TOKENS = 200


def make(translator: Translator, means: Means) -> "Api":
    use = means.requests
    return Api(find(translator.url, use.key_env), use, means.account, str(translator.model),
               {name: json.loads(value) for name, value in translator.body.items()})


class Api(Engine):
    """A model on a server, at temperature 0. JSON is asked for by ``response_format``, unless the server refuses that."""

    together = True
    rewords = True
    charges = True
    longest = 8000

    def __init__(self, place: Place, use: Requests, account: Account, model: str, more: dict[str, Any]) -> None:
        self._place, self._use, self._account, self._model, self._more = place, use, account, model, more
        self._format: dict[str, Any] = _JSON
        self._asked = False
        """Whether it is known that the server takes the format."""
        self.identity = {"engine": "api", "model": model, "url": place.url, "body": more, "prompt": PROMPT_HASH}

    def can(self, source: str, target: str) -> bool:
        return True

    def foresee(self, pieces: Sequence[Piece], binding: bool = False) -> str:
        requests = (self._request(number, piece) for number, piece in enumerate(pieces))
        said = self._account.estimate(((one.prompt_tokens, one.completion_tokens) for one in requests), binding)
        return f"{self._place.url}, {self._model}: {said}"

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        formless: list[int] = []

        def delivered(request: Request, reply: Reply) -> None:
            self._asked = self._asked or _formatted(request)
            piece = pieces[int(request.key)]
            deliver(piece, _answer(piece, reply))

        def refused(request: Request, error: RefusedError) -> None:
            own = _formatted(request) and not _JSON.keys() & self._more.keys()
            if own and not self._asked and _FORMAT_REFUSED.search(str(error)):
                self._format = {}
                formless.append(int(request.key))
            else:
                deliver(pieces[int(request.key)], Answer({}, (Reason("request_refused", "", str(error)),)))

        numbers: Sequence[int] = range(len(pieces))
        while numbers:  # a second time for those that were refused because of their format
            formless = []
            ask_all(self._place, self._use, self._account, (self._request(number, pieces[number]) for number in numbers),
                    delivered, refused, alone=0.0 if self._asked or not self._format else _ALONE_SECONDS)
            numbers = formless

    def _request(self, number: int, piece: Piece) -> Request:
        turns = messages(piece)
        tokens = sum(estimated_tokens(text) for text in piece.fields.values())
        longest = _LEAST_TOKENS + _ANSWER_TOKENS * tokens
        body = {"model": self._model, "messages": turns, "temperature": 0, "max_tokens": longest, **self._format, **self._more}
        return Request(str(number), _ROUTE, {name: value for name, value in body.items() if value is not None},
                       sum(estimated_tokens(turn["content"]) for turn in turns), longest, _read)


def _formatted(request: Request) -> bool:
    return bool(request.body.keys() & _JSON.keys())


def _read(data: Any) -> dict[str, Any]:
    """What was said, and why it ended there.

    Raises:
        ValueError: the reply has not the shape of a chat completion.
    """
    try:
        choice = data["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a chat completion: {error!r}") from error
    if text is not None and not isinstance(text, str):
        raise ValueError(f"not a chat completion: its content is a {type(text).__name__}")
    return {"said": text or "", "end": choice.get("finish_reason"), "refusal": choice["message"].get("refusal")}


def _answer(piece: Piece, reply: Reply) -> Answer:
    tokens = reply.prompt_tokens, reply.completion_tokens
    value = reply.value
    if value["refusal"] or value["end"] == "content_filter":
        return Answer({}, (Reason("refusal", "", str(value["refusal"] or "stopped by the server's content filter")),), tokens)
    if value["end"] == "length":
        return Answer({}, (Reason("cut_off", "", f"the answer was cut off after {reply.completion_tokens} tokens"),), tokens)
    return Answer(*read(value["said"], piece.fields), tokens)
