"""Whether a text that was translated and back is still the same (chrF, Popović 2015, by sacrebleu)."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from biomistral.translation.fields import Fields
from biomistral.translation.reasons import Reason

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

_LEAST = 25.0
"""chrF below which a text came back as another."""

_SHORT = 20
"""Characters of a text below which it may come back as a synonym (kidney, renal)."""


def unlike(source: Fields, back: Fields) -> Iterator[Reason]:
    """Texts that came back as others.

    Most are screened by their trigrams alone: shorter n-grams are alike where these are, so that chrF, a mean over six lengths,
    is at least half of the trigrams' score.
    """
    for name, text in source.items():
        wanted, said = text.casefold(), back.get(name, "").casefold()
        if len(text) < _SHORT or _trigrams_alike(said, wanted) >= 2 * _LEAST:
            continue
        score = _chrf().sentence_score(said, [wanted]).score
        if score < _LEAST:
            yield Reason("back-translation", name, f"chrF {score:.0f}: comes back as {back.get(name, '')[:60]!r}")


@cache
def _chrf() -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _trigrams_alike(hypothesis: str, reference: str) -> float:
    """chrF of the trigrams alone (beta 2), 0 to 100."""
    here, there = _trigrams(hypothesis), _trigrams(reference)
    same = sum((here & there).values())
    return 100 * 5 * same / (4 * there.total() + here.total()) if same else 0.0


def _trigrams(text: str) -> Counter[str]:
    plain = "".join(text.split())
    return Counter(map("".join, zip(plain, plain[1:], plain[2:], strict=False)))
