"""The API engine from end to end: what the server can do, everything asked of it, what it answered as rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from biomistral import ranks
from biomistral.artifact import Workspace
from biomistral.endpoint.account import Account
from biomistral.endpoint.journal import Journal
from biomistral.endpoint.place import find
from biomistral.errors import UserError
from biomistral.evaluation.answered import Answered
from biomistral.evaluation.api.asks import Ask, AskId, Served, asks_of, requests_of
from biomistral.evaluation.api.notes import cut_notes, letter_notes
from biomistral.evaluation.api.rows import Entry, has_letters, rows_of
from biomistral.evaluation.api.server import Server
from biomistral.progress import log
from biomistral.recipe import canonical_hash
from biomistral.records import Question


def answer(work: Workspace, questions: Sequence[Question]) -> Answered:
    """
    Raises:
        UserError: the server cannot be used, refuses a question, or would cost more than it may; likelihoods are asked of one
            that gives none.
    """
    if not ranks.leads():
        raise ranks.Dismissed  # one process keeps a server busy
    if work.machine.cache:
        raise UserError("--cache: finds answers by the hash of a model's weights, which nobody knows of a server; leave it out")
    settings, use = work.settings, work.machine.requests
    asks = list(asks_of(questions, settings))
    place, account = find(settings.url, use.key_env), Account.of(use)
    journal = Journal(work.path / "parts" / "answers.jsonl", account)
    try:
        served = Served(settings.model, {name: json.loads(value) for name, value in settings.body.items()})
        server = Server(place, served, use, account, journal, settings.too_long != "refuse")
        if journal.open:
            log.info("%s: %d requests had no answer when an earlier run was cut off; they count as spent, with their estimates",
                     place.url, journal.open)
        server.estimate(asks, settings.top_logprobs)
        sitting, notes = _begin(server, asks, settings.top_logprobs)
        in_words = sitting.ask(fewer=settings.too_long == "fewer-shots")
    finally:
        journal.close()
    log.info("%s: %s", place.url, account.said())
    name = settings.name or settings.model
    long = sitting.left_out(behind_all=settings.too_long == "drop")
    answered = [ask for ask in sitting.asks if ask.id not in long]
    rows = [row for ask in answered for row in rows_of(ask, sitting.entries(ask.in_words() if ask.id in in_words else ask), name)]
    letters = [(ask, None if ask.id in in_words else sitting.entries(ask)[0]) for ask in answered if ask.way == "letters"]
    cut = cut_notes([(ask, entry) for ask in answered
                     for entry in sitting.entries(ask.in_words() if ask.id in in_words else ask)[:1]])
    for note in cut:
        log.warning(note)
    left_out = list(dict.fromkeys((protocol.name, ask.shot_set, ask.question.id, ask.question.language) for ask in sitting.asks
                                  if ask.id in long for protocol in ask.protocols))
    facts = {"name": name, "key": canonical_hash([place.url, settings.model]), "parameters": None, "dtype": None,
             "quantization": None, "url": place.url, "served": settings.model}
    asked = {"requests": len(journal.entries), "prompt_tokens": account.prompt_tokens,
             "completion_tokens": account.completion_tokens, "cost": account.spent if account.priced else None,
             "unanswered": account.unanswered, "unanswered_cost": account.unanswered_cost if account.priced else None}
    return Answered(facts, rows, left_out, notes + letter_notes(letters, sitting.tops) + cut, {"asked": asked})


@dataclass(frozen=True)
class _Sitting:
    """The asks as a server can answer them; ``tops``: of how many likeliest tokens it names the probabilities, by route."""

    server: Server
    asks: list[Ask]
    tops: dict[str, int]

    def entries(self, ask: Ask) -> list[Entry]:
        """What was read of the replies to an ask."""
        return [self.server.journal.entries[request.key]
                for request in requests_of(ask, self.server.served, self.tops[ask.route])]

    def ask(self, fewer: bool) -> set[AskId]:
        """Have everything answered, ``fewer``: what is too long behind a shot less, again and again; returns the ids of those
        asked in words, none of whose letters is among the likeliest tokens."""
        wordless = self._ask(self.asks)
        while fewer and (short := self._shortened()):
            wordless = (wordless - {ask.id for ask in short}) | self._ask(short)
        return wordless

    def _ask(self, asks: Sequence[Ask]) -> set[AskId]:
        for route, top in self.tops.items():
            self.server.ask([ask for ask in asks if ask.route == route], top)
        wordless = {ask.id: ask for ask in asks if ask.way == "letters" and ask.id not in self.server.long
                    and not has_letters(ask, self.entries(ask)[0])}
        twins = {ask.in_words().id: ask.id for ask in wordless.values()}
        self.server.ask([ask.in_words() for ask in wordless.values()], 0)
        self.server.long.update(twins[one] for one in self.server.long & twins.keys())
        return set(wordless)

    def _shortened(self) -> list[Ask]:
        """Put what is too long, in all orders of its options, behind a shot less; what has none stays as it is."""
        long = {ask.id[:3] for ask in self.asks if ask.id in self.server.long and ask.shots}
        self.asks[:] = [ask.with_fewer() if ask.id[:3] in long else ask for ask in self.asks]
        short = [ask for ask in self.asks if ask.id[:3] in long]
        self.server.long.difference_update(ask.id for ask in short)
        self.server.long.difference_update(ask.in_words().id for ask in short if ask.way == "letters")
        return short

    def left_out(self, behind_all: bool) -> set[AskId]:
        """Too long in one order of its options: left out in all, ``behind_all``: behind all shot sets, so that these compare."""
        def same(ask: Ask) -> tuple[object, ...]:
            return (ask.id[0], ask.question.identity) if behind_all else ask.id[:3]

        long = {same(ask) for ask in self.asks if ask.id in self.server.long}
        return {ask.id for ask in self.asks if same(ask) in long}


def _begin(server: Server, asks: list[Ask], top: int) -> tuple[_Sitting, list[str]]:
    """See what this server can do, by asking the first question of each kind; also says what had to be changed.

    Raises:
        UserError: likelihoods are asked, and the server gives none of a prompt.
    """
    tops, notes, kept = {"completions": top, "chat/completions": top}, [], asks
    for first in {(ask.route, ask.way): ask for ask in reversed(asks) if ask.way != "words"}.values():
        able = server.able(first, top)
        if able and first.way == "letters":
            tops[first.route] = able
        elif first.way == "letters":
            kind = [ask for ask in asks if (ask.route, ask.way) == (first.route, first.way)]
            names = dict.fromkeys((ask.id[0], ask.in_words().id[0]) for ask in kind)
            notes += [f"{name}: the server gives no log-probabilities: asked as {other} instead" for name, other in names]
            kept = [ask.in_words() if (ask.route, ask.way) == (first.route, first.way) else ask for ask in kept]
        elif not able:
            raise UserError(f"{server.place.url}: gives no log-probabilities of a prompt (echo), which {first.id[0]} needs; ask "
                            "protocols that read letters or words, e.g. --protocols letters-0shot")
    return _Sitting(server, list({ask.id: ask for ask in kept}.values()), tops), notes
