"""What was asked and what it costs: an estimate before, an account meanwhile, and a cap that is never passed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from biomistral.errors import UserError
from biomistral.recipe import Requests


class BudgetError(UserError):
    """What may be spent is spent, or would be passed: nothing is wrong, and what was answered stands."""


_BYTES_A_TOKEN = 3
"""Of English about 4.4, of medical English 3.7, of other alphabets 2 to 4 (UTF-8): an estimate that is rather too high."""


def estimated_tokens(text: str) -> int:
    """Tokens that a text may have in a tokenizer that is not here."""
    return len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN + 1


Note = Callable[[str, str, tuple[int, int]], None]
"""Told what became of a request: ``sent``, ``lost`` or ``spared``, its key, and its estimated tokens of prompt and answer."""


def _nobody(word: str, key: str, tokens: tuple[int, int]) -> None:
    return None


@dataclass
class Account:
    """Money in the unit of the prices. What is in flight counts with its estimate, what was answered with what the server
    counted. An answer that never came counts with its estimate, since servers may charge for it: ``unanswered`` of them make up
    ``unanswered_cost`` of what is ``spent``, which is thus an upper bound."""

    price_in: float | None = None
    price_out: float | None = None
    cap: float | None = None
    spent: float = 0.0
    in_flight: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unanswered: int = 0
    unanswered_cost: float = 0.0
    note: Note = _nobody
    others: list["Account"] = field(default_factory=list)
    """Accounts of other servers that the same cap holds for."""

    @classmethod
    def of(cls, use: Requests) -> "Account":
        return cls(use.price_in, use.price_out, use.max_cost)

    @property
    def priced(self) -> bool:
        return self.price_in is not None or self.price_out is not None

    def beside(self, use: Requests) -> "Account":
        """The account of another server, with its own prices and the same cap."""
        other = Account(use.price_in, use.price_out, use.max_cost, others=[self])
        self.others.append(other)
        return other

    @property
    def total(self) -> float:
        """What is spent of the cap."""
        return self.spent + sum(other.spent for other in self.others)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * (self.price_in or 0) + completion_tokens * (self.price_out or 0)) / 1e6

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Enter what was answered."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.spent += self.cost(prompt_tokens, completion_tokens)

    def send(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """A request goes out now; from here on a server may charge for it."""
        self.note("sent", key, (prompt_tokens, completion_tokens))

    def lose(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """The answer to a request that was sent will not come."""
        self.count(prompt_tokens, completion_tokens)
        self.unanswered += 1
        self.unanswered_cost += self.cost(prompt_tokens, completion_tokens)
        self.note("lost", key, (prompt_tokens, completion_tokens))

    def spare(self, key: str) -> None:
        """The server has refused a request that was sent: it charges nothing for it."""
        self.note("spared", key, (0, 0))

    def reserve(self, cost: float) -> bool:
        """Set the cost of one more request aside; False: it has to wait for what others in flight really cost.

        Raises:
            BudgetError: with this request the cap would be passed.
        """
        if self.cap is not None and self.total + cost > self.cap:
            raise BudgetError(f"--max-cost {self.cap:g}: {self.total:.4g} is spent, and the next request may cost {cost:.4g}; "
                              "what was answered is kept: raise the cap, or ask fewer, and run again")
        if self.cap is not None and self.total + self.in_flight + cost > self.cap:
            return False
        self.in_flight += cost
        return True

    def release(self, cost: float) -> None:
        """What was set aside for a request is known by now."""
        self.in_flight -= cost

    def estimate(self, tokens: Iterable[tuple[int, int]], binding: bool = True) -> str:
        """In words, what requests of so many (prompt, answer) tokens will take at most; most answers are shorter than
        they may be.

        Raises:
            BudgetError: they would pass the cap, and the estimate is ``binding``.
        """
        found = list(tokens)
        into, out = sum(one for one, _ in found), sum(other for _, other in found)
        cost = self.cost(into, out)
        over = self.cap is not None and self.total + cost > self.cap
        if over and binding:
            before = f", and {self.total:.4g} is spent" if self.total else ""
            raise BudgetError(f"--max-cost {self.cap:g}: {len(found):,} requests may cost {cost:.4g} ({into:,} prompt tokens, "
                            f"{out:,} of answers, estimated){before}; ask fewer (--limit), or raise the cap")
        priced = f"may cost {cost:.4g}" if self.priced else "no prices given"
        priced += f", more than is left of --max-cost {self.cap:g}: if it really does, it stops there" if over else ""
        return f"{len(found):,} requests, about {into:,} prompt tokens, at most {out:,} of answers: {priced}"

    def said(self) -> str:
        """In words, what was asked and spent."""
        spent = f", {self.spent:.4g} spent" if self.priced else ""
        lost = (f"; {self.unanswered:,} answers never came, for which a server may have charged"
                + (f" {self.unanswered_cost:.4g} of that at most" if self.priced else "")) if self.unanswered else ""
        return f"{self.prompt_tokens:,} prompt tokens, {self.completion_tokens:,} of answers{spent}{lost}"
