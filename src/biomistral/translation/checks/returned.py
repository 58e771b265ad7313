"""Whether a text that was translated and back is still the same (chrF, Popović 2015)."""

from collections import Counter
from collections.abc import Iterator

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

ORDER, BETA = 6, 2.0
_LEAST_STEM, _LEAST_OPTION = 25.0, 12.0
"""chrF below which a text came back as another."""


def chrf(hypothesis: str, reference: str) -> float:
    """chrF of a text against another, 0 to 100, as sacrebleu computes it for one sentence (character n-grams of order 1 to 6
    without spaces, beta 2, orders that a text is too short for left out)."""
    one, other = "".join(hypothesis.split()), "".join(reference.split())
    score, orders = 0.0, 0
    for order in range(1, ORDER + 1):
        if len(one) < order or len(other) < order:
            continue
        orders += 1
        here, there = _grams(one, order), _grams(other, order)
        same = sum((here & there).values())
        if same:
            precision, recall = same / (len(one) - order + 1), same / (len(other) - order + 1)
            score += (1 + BETA ** 2) * precision * recall / (BETA ** 2 * precision + recall)
    return 100 * score / orders if orders else 0.0


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[place:place + order] for place in range(len(text) - order + 1))


def unlike(source: Fields, back: Fields) -> Iterator[Reason]:
    """Texts that came back as others."""
    for name, text in source.items():
        score = chrf(back.get(name, "").casefold(), text.casefold())
        if score < (_LEAST_OPTION if len(name) == 1 else _LEAST_STEM):
            yield Reason("back-translation", name, f"chrF {score:.0f}: comes back as {back.get(name, '')[:60]!r}")
