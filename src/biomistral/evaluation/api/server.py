"""A server as the evaluation sees it: asks in, readings out, by way of the journal."""

import re
from collections.abc import Iterable, Sequence

from biomistral.endpoint.account import Account
from biomistral.endpoint.client import RefusedError, Reply, Request
from biomistral.endpoint.crowd import ask_all
from biomistral.endpoint.journal import Journal
from biomistral.endpoint.place import Place
from biomistral.errors import UserError
from biomistral.evaluation.api.asks import Ask, AskId, Served, requests_of
from biomistral.progress import bar, log
from biomistral.recipe import Requests

_TOO_LONG = re.compile(r"context|too long|too many tokens|maximum.*(?:length|tokens)", re.IGNORECASE)
_FEWEST_TOP = 5
"""What OpenAI's completions and a vLLM that is not told otherwise allow."""


class Server:
    """``spare``: asks whose prompt the server finds too long are noted in ``long``, by their ids; else they are an error."""

    def __init__(self, place: Place, served: Served, use: Requests, account: Account, journal: Journal, spare: bool) -> None:
        self.place, self.served, self.use, self.account, self.journal, self._spare = place, served, use, account, journal, spare
        self.long: set[AskId] = set()

    def requests(self, asks: Iterable[Ask], top: int) -> dict[str, tuple[Request, list[Ask]]]:
        """What is still to be sent, by its key, each with the asks that it is for: prompts may be the same."""
        found: dict[str, tuple[Request, list[Ask]]] = {}
        for ask in asks:
            for request in requests_of(ask, self.served, top) if ask.id not in self.long else ():
                if request.key not in self.journal.entries:
                    found.setdefault(request.key, (request, []))[1].append(ask)
        return found

    def estimate(self, asks: Iterable[Ask], top: int) -> None:
        """Say what these will take.

        Raises:
            UserError: they would cost more than they may.
        """
        open_requests = self.requests(asks, top)
        said = self.account.estimate((one.prompt_tokens, one.completion_tokens) for one, _ in open_requests.values())
        kept = len(self.journal.entries)
        log.info("%s: %s%s", self.place.url, said, f" ({kept:,} were answered before)" if kept else "")

    def ask(self, asks: Iterable[Ask], top: int) -> None:
        """Have all of these answered.

        Raises:
            UserError: see `ask_all`; the server refuses a question.
        """
        waiting = self.requests(asks, top)
        with bar(f"asking {self.served.name}", len(waiting)) as progress:
            def deliver(request: Request, reply: Reply) -> None:
                self.journal.write(request.key, reply)
                progress.advance()

            ask_all(self.place, self.use, self.account, (request for request, _ in waiting.values()), deliver,
                    lambda request, error: self._refused(waiting[request.key][1], error))

    def _refused(self, asks: Sequence[Ask], error: RefusedError) -> None:
        """
        Raises:
            UserError: unless the prompt is too long and such are not asked.
        """
        if not (self._spare and _TOO_LONG.search(str(error))):
            first = asks[0]
            raise UserError(f"question {first.question.id!r}: {self.place.url} refuses it under {first.id[0]}: {error}")
        self.long.update(ask.id for ask in asks)

    def able(self, ask: Ask, top: int) -> int:
        """How many of the likeliest tokens the server names for such an ask, at most ``top``; for likelihoods 1; 0: it cannot.

        Its answer is kept like any other: nothing is asked for the sake of asking.

        Raises:
            UserError: see `ask`.
        """
        for number in dict.fromkeys((top, min(top, _FEWEST_TOP))):
            refusals = self._try(requests_of(ask, self.served, number)[0])
            if not refusals:
                break
            if not re.search("logprob|echo", str(refusals[0]), re.IGNORECASE):
                self._refused([ask], refusals[0])
                return top
        else:
            return 0
        value = self.journal.entries[requests_of(ask, self.served, number)[0].key]["value"]
        if ask.way == "letters":
            return number if value["top"] else 0
        return int(value["tokens"] is not None and value["text"].startswith(ask.prompt))

    def _try(self, request: Request) -> list[RefusedError]:
        """Send one request; what the server says if it refuses it."""
        refusals: list[RefusedError] = []
        if request.key not in self.journal.entries:
            ask_all(self.place, self.use, self.account, [request], lambda one, reply: self.journal.write(one.key, reply),
                    lambda _, error: refusals.append(error))
        return refusals
