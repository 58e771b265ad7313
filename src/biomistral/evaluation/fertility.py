"""What a language costs: tokens of its words, and of the same questions in English; how near prompts come to the context's end.

Sources: Rust et al. (2021, arXiv 2012.15613) for fertility; Petrov et al. (2023, arXiv 2305.15425) for the premium over English.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from biomistral.models.tokens import Tokenizer
from biomistral.records import Question
from biomistral.scoring.gaps import ENGLISH
from biomistral.scoring.tally import Row, identity, split_by

WITHOUT_SPACES = ("zh", "ja", "th", "lo", "km", "my", "bo", "dz")
"""Languages whose scripts put no space between words: their tokens are counted by character."""

NEAR = 0.9
"""A prompt of at least this share of what a model reads is near its limit."""


def fertility(questions: Iterable[Question], rows: Sequence[Row], tokenizer: Tokenizer,
              longest: int | None) -> dict[str, Any]:
    """Of each language asked: ``tokens`` and ``units`` (words, or characters without spaces) of stems, options and contexts,
    ``per_unit`` their ratio, ``premium`` tokens over those of the same questions in English (None: no such pairs), and by
    protocol the share of prompts that are ``near_limit`` (None: what the model reads is not known).
    """
    asked = set(map(identity, rows))
    tokens, units = {}, {}
    for question in questions:
        if question.identity in asked:
            texts = [question.stem, *question.options, *([question.context] if question.context else [])]
            tokens[question.identity] = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
            units[question.identity] = sum(num_units(text, question.language) for text in texts)
    found = {}
    for language, own in split_by(rows, "language").items():
        mine = [one for one in tokens if one[0] == language]
        total, of = sum(tokens[one] for one in mine), sum(units[one] for one in mine)
        found[language] = {"unit": unit(language), "questions": len(mine), "tokens": total, "units": of,
                           "per_unit": total / of if of else None, "premium": _premium(mine, tokens),
                           "near_limit": {protocol: _near(some, longest) for protocol, some in split_by(own, "protocol").items()}}
    return {"context_length": longest, "languages": found}


def unit(language: str) -> str:
    """What tokens are counted by."""
    return "character" if language in WITHOUT_SPACES else "word"


def num_units(text: str, language: str) -> int:
    """Words between white space; of a script without spaces, characters that are no white space."""
    words = text.split()
    return sum(map(len, words)) if unit(language) == "character" else len(words)


def _premium(mine: Sequence[tuple[str, str]], tokens: Mapping[tuple[str, str], int]) -> float | None:
    pairs = [(tokens[one], tokens[ENGLISH, one[1]]) for one in mine if (ENGLISH, one[1]) in tokens]
    english = sum(theirs for _, theirs in pairs)
    return sum(own for own, _ in pairs) / english if english else None


def _near(rows: Sequence[Row], longest: int | None) -> float | None:
    if longest is None:
        return None
    near = [row for row in rows if (row["prompt_tokens"] or 0) >= NEAR * longest]
    return len(near) / len(rows)
