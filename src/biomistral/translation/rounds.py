"""Translate, check, and ask again for what is not sound: in other words, then of the next engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomistral.progress import log
from biomistral.records import Question
from biomistral.translation.checks.every import find_faults
from biomistral.translation.checks.structure import missing
from biomistral.translation.desk import Desk, Order
from biomistral.translation.engine import Engine
from biomistral.translation.fields import Fields, fields_of
from biomistral.translation.reasons import Reason


@dataclass(frozen=True)
class Attempt:
    """One translation of a question: its fields, those translated back (None: nobody did), why it is not sound, who made it."""

    fields: Fields
    back: Fields | None
    reasons: tuple[Reason, ...]
    about: dict[str, Any]


def empties(fields: Fields) -> list[Reason]:
    """Texts of white space, which no question can have."""
    return [Reason("empty", name, "is nothing but white space") for name, text in fields.items() if not text.strip()]


@dataclass
class Job:
    """A question on its way; ``best`` is the attempt with the fewest reasons, the first of equals."""

    question: Question
    best: Attempt | None = None
    last: tuple[Reason, ...] = ()
    tries: int = 0
    finished: bool = False
    """Whether all that was to be tried was tried."""

    @property
    def source(self) -> Fields:
        return fields_of(self.question)

    @property
    def sound(self) -> bool:
        return self.best is not None and not self.best.reasons

    def take(self, attempt: Attempt) -> None:
        self.tries += 1
        self.last = attempt.reasons
        if self.best is None or len(attempt.reasons) < len(self.best.reasons):
            self.best = attempt


@dataclass
class Rounds:
    """``forward``: who translates, one after the other; ``back``: who translates back, if anybody."""

    desk: Desk
    forward: Sequence[Engine]
    back: Engine | None
    language: str
    attempts: int
    at_once: int = 0
    """Questions that go through all rounds before the next ones are begun; 0: all of them."""
    all_or_none: bool = False
    """Whether nothing is begun where the first engine may cost too much for all."""
    account: list[dict[str, Any]] = field(default_factory=list)
    """A row an engine and wording: how many were asked for and how many of them became sound."""

    def run(self, jobs: Sequence[Job]) -> None:
        """
        Raises:
            BudgetError: what may be spent is spent; jobs that are done by then are ``finished``.
            UserError: an engine cannot be used; what was translated is remembered.
        """
        size = self.at_once or len(jobs)
        if self.forward[0].charges:
            self._foresee([self._order(job, 0) for job in jobs if not job.sound])
        for start in range(0, len(jobs), size):
            self._run(jobs[start:start + size])
            for job in jobs[start:start + size]:
                job.finished = True

    def _foresee(self, orders: Sequence[Order]) -> None:
        """Say what the first round takes, there and back, where the sources stand for translations that are not made yet."""
        self.desk.foresee(self.forward[0], orders, self.all_or_none)
        if self.back is not None and self.back.charges:
            self.desk.foresee(self.back, [Order(order.item, order.fields, self.language, order.source) for order in orders])

    def _run(self, jobs: Sequence[Job]) -> None:
        for engine in self.forward:
            for wording in range(self.attempts if engine.rewords else 1):
                asked = [job for job in jobs if not job.sound]
                if not asked:
                    return
                self._round(engine, wording, asked)

    def _round(self, engine: Engine, wording: int, jobs: Sequence[Job]) -> None:
        drafts: dict[int, tuple[Fields, list[Reason]]] = {}

        def judge(number: int, back: Fields | None) -> None:
            job, (fields, faults) = jobs[number], drafts[number]
            about = {"engine": engine.identity["engine"], "model": engine.identity.get("model"), "attempt": wording + 1,
                     "from": job.question.language}
            job.take(Attempt(fields, back, tuple(self._judged(job, fields, faults, back)), about))

        def drafted(number: int, fields: Fields, faults: list[Reason]) -> None:
            drafts[number] = fields, faults
            if not self._goes_back(jobs[number], fields):
                judge(number, None)

        self.desk.translate(engine, [self._order(job, wording) for job in jobs], drafted)
        self._backwards(jobs, {number: fields for number, (fields, _) in sorted(drafts.items())}, judge)
        sound = sum(job.sound for job in jobs)
        name = engine.identity["engine"]
        self._enter({"engine": name, "model": engine.identity.get("model"), "attempt": wording + 1}, len(jobs), sound)
        log.info("%s%s: %d of %d sound", name, f", attempt {wording + 1}" if wording else "", sound, len(jobs))

    def _enter(self, who: dict[str, Any], asked: int, sound: int) -> None:
        row = next((row for row in self.account if who.items() <= row.items()), None)
        if row is None:
            self.account.append(row := {**who, "asked": 0, "sound": 0})
        row["asked"] += asked
        row["sound"] += sound

    def _order(self, job: Job, wording: int) -> Order:
        told = tuple(f"{reason.field or 'reply'}: {reason.check}: {reason.detail}" for reason in job.last) if wording else ()
        return Order((job.question.task, job.question.id), job.source, job.question.language, self.language, wording, told)

    def _judged(self, job: Job, fields: Fields, faults: Sequence[Reason], back: Fields | None) -> list[Reason]:
        """What is wrong with the answer itself, and with what could be read of it."""
        faults = [*faults, *empties(fields)]
        known = {(fault.check, fault.field) for fault in faults}
        checked = find_faults(job.source, fields, self.language, back, job.question.language)
        return [*faults, *(reason for reason in checked if (reason.check, reason.field) not in known)]

    def _goes_back(self, job: Job, fields: Fields) -> bool:
        """Whether a draft is translated back: a whole one, by somebody who can."""
        return self.back is not None and not list(missing(job.source, fields))

    def _backwards(self, jobs: Sequence[Job], drafts: dict[int, Fields], judge: Callable[[int, Fields | None], None]) -> None:
        """Have drafts judged beside what they say in the language they came from; None where that could not be had."""
        numbers = [number for number, fields in drafts.items() if self._goes_back(jobs[number], fields)]
        if self.back is None or not numbers:
            return
        orders = [Order((jobs[number].question.task, jobs[number].question.id), drafts[number], self.language,
                        jobs[number].question.language) for number in numbers]

        def backwards(place: int, fields: Fields, _: list[Reason]) -> None:
            number = numbers[place]
            judge(number, fields if fields.keys() == drafts[number].keys() else None)

        self.desk.translate(self.back, orders, backwards)
