"""Records from readings: letters among the likeliest tokens, options by their likelihood, words."""

import math
from collections.abc import Sequence
from typing import Any

from biomistral.errors import UserError
from biomistral.evaluation.api.asks import Ask
from biomistral.records import Question
from biomistral.scoring.prompts import cloze_continuations
from biomistral.scoring.rows import cloze_fields, common_fields, letter_fields, text_fields
from biomistral.scoring.score import ClozeAnswer
from biomistral.scoring.tally import Row

Entry = dict[str, Any]


def letter_masses(top: Sequence[Sequence[Any]], letters: str) -> dict[str, float]:
    """Probability of each letter that is among the likeliest tokens, alone or behind a space (some servers show it as ``▁``)."""
    masses: dict[str, float] = {}
    for token, logprob in top:
        letter = token.removeprefix("▁").removeprefix("Ġ").removeprefix(" ")
        if len(letter) == 1 and letter in letters:
            masses[letter] = masses.get(letter, 0.0) + math.exp(logprob)
    return masses


def has_letters(ask: Ask, entry: Entry) -> bool:
    """Whether any of a question's letters is among the likeliest tokens."""
    return bool(letter_masses(entry["value"]["top"] or (), ask.question.letters))


def missing_letters(ask: Ask, entry: Entry) -> tuple[str, float]:
    """Letters that are not among the likeliest tokens, and the most that each can have had: what the last of these has."""
    top = entry["value"]["top"]
    found = letter_masses(top, ask.question.letters)
    return "".join(letter for letter in ask.question.letters if letter not in found), math.exp(top[-1][1])


def rows_of(ask: Ask, entries: Sequence[Entry], name: str) -> list[Row]:
    """The rows of one ask, one a protocol, from the readings of its requests (or of that which asked in words instead).

    Raises:
        UserError: the server's probabilities are not numbers.
    """
    counted = [entry["tokens"][0] for entry in entries if entry["counted"]]
    common = {**common_fields(name, ask.question, ask.prompt), "shot_set": ask.shot_set, "shots": len(ask.shots),
              "prompt_tokens": counted[0] if counted else None, "seconds": sum(entry["seconds"] for entry in entries),
              "said": None, "unparsed": None, "truth_mass": None}
    rows = []
    for protocol in ask.protocols:
        fields = _fields(ask, entries, protocol.score)
        rows.append({**common, **fields, "protocol": protocol.name, "right": fields["chosen"] == ask.question.answer})
    return rows


def _fields(ask: Ask, entries: Sequence[Entry], score: str) -> Row:
    value = entries[0]["value"]
    if "said" in value:
        return text_fields(value["said"], ask.question)
    if "top" in value:
        return _letters(value["top"], ask.question)
    return cloze_fields(_likelihoods([entry["value"]["tokens"] for entry in entries], ask), ask.question, score)


def _letters(top: Sequence[Sequence[Any]], question: Question) -> Row:
    masses = letter_masses(top, question.letters)
    total = sum(masses.values())
    if not math.isfinite(total):
        raise _damaged(question)
    probabilities = [masses.get(letter, 0.0) / total for letter in question.letters]
    return letter_fields(probabilities, min(1.0, total), top[0][0].removeprefix("▁").removeprefix("Ġ").strip(), question)


def _likelihoods(tokens: Sequence[Sequence[Sequence[Any]]], ask: Ask) -> ClozeAnswer:
    """Sums over the tokens of each option. Stem and options are cut where a token begins in all of them: the last such place that
    is not behind the stem's end (a token of a stem that merges with an option's first one belongs to the option)."""
    stem, options = len(ask.prompt), cloze_continuations(ask.question, ask.protocols[0])
    shared = set.intersection(*({place for place, _ in found} for found in tokens))
    cut = max(place for place in shared if place <= stem)
    sums, lengths = [], []
    for found, option in zip(tokens, options, strict=True):
        own = [logprob for place, logprob in found if cut <= place < stem + len(option)]  # behind it stands what was answered
        if not own or not all(value is not None and math.isfinite(value) for value in own):
            raise _damaged(ask.question)
        sums.append(sum(own))
        lengths.append(len(own))
    return ClozeAnswer(sums, lengths, 0.0)


def _damaged(question: Question) -> UserError:
    return UserError(f"question {question.id!r}: the server's log-probabilities are not numbers; its model computes NaN or is "
                     "not asked as it should be")
