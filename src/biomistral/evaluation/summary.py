"""Summaries of answers: everything in ``results.json`` under ``protocols``, computed from the rows of ``answers.parquet``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from biomistral.evaluation.confidence import calibration
from biomistral.evaluation.languages import by_language
from biomistral.recipe import canonical_hash
from biomistral.records import LETTERS
from biomistral.scoring.caveats import caveats, follows_prompt
from biomistral.scoring.permutations import published_letter
from biomistral.scoring.prompts import PROTOCOLS
from biomistral.scoring.tally import Row, identity, score, split_by

DEGENERATE_SHARE = 0.9


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """Scores of each protocol by task, group and overall, from rows of ``records.ANSWER_SCHEMA``; in their order."""
    by_protocol: dict[str, list[Row]] = {}
    for row in rows:
        by_protocol.setdefault(row["protocol"], []).append(row)
    return {name: _summarise_protocol(name, found) for name, found in by_protocol.items()}


def _summarise_protocol(name: str, rows: list[Row]) -> dict[str, Any]:
    definition = PROTOCOLS[name].definition({row["language"] for row in rows})
    tasks = {task: score(found) for task, found in split_by(rows, "task").items()}
    overall, seconds = score(rows), sum(row["seconds"] for row in rows)
    return {
        "definition": definition, "definition_hash": canonical_hash(definition), "tasks": tasks,
        "groups": {group: score(found) for group, found in split_by(rows, "group").items() if group},
        "languages": by_language(rows), "overall": overall,
        "average": float(np.mean([found["accuracy"] for found in tasks.values()])),
        "degenerate": degenerate(rows) if PROTOCOLS[name].by_letter else None,
        "follows_prompt": follows_prompt(overall["letter_mass"]),
        "calibration": None if PROTOCOLS[name].by_text else calibration(rows), **_unparsed(rows),
        "positions": positions(rows), "shot_sets": sensitivity(rows, "shot_set", "permutation"),
        "permutations": sensitivity(rows, "permutation", "shot_set"), "seconds": seconds,
        "questions_per_second": len(rows) / seconds if seconds else None,
    }


def positions(rows: Sequence[Row]) -> dict[str, Any]:
    """Answer-position bias: how often each place of an option is chosen and is right, as shares, and their ``distance``
    (total variation, 0 to 1): how many answers would have to move for the places to be chosen as often as they are right.
    """
    chosen, right = (Counter(row[field] for row in rows if row["chosen"]) for field in ("chosen", "answer"))
    total = chosen.total() or 1
    shares = {letter: {"chosen": chosen[letter] / total, "right": right[letter] / total}
              for letter in LETTERS if letter in chosen or letter in right}
    return {"shares": shares, "distance": sum(abs(one["chosen"] - one["right"]) for one in shares.values()) / 2}


def sensitivity(rows: Sequence[Row], over: str, within: str) -> dict[str, Any] | None:
    """What it changes to ask ``over`` several shot sets, or permutations of the options; None where there is one.

    ``accuracies`` of each; of the questions (each ``within`` one of the other kind by itself) the share whose answer is not the
    same option in all of them, ``changed``, and ``consistency``: the mean share of answers that are the question's most frequent.
    """
    by_way = split_by(rows, over)
    if len(by_way) < 2:
        return None
    options: dict[tuple[object, int], Counter[str]] = {}
    for row in rows:
        options.setdefault((identity(row), row[within]), Counter())[published_letter(row, row["chosen"])] += 1
    return {"accuracies": [float(np.mean([row["right"] for row in by_way[way]])) for way in sorted(by_way)],
            "changed": float(np.mean([len(found) > 1 for found in options.values()])),
            "consistency": float(np.mean([max(found.values()) / found.total() for found in options.values()]))}


def _unparsed(rows: Sequence[Row]) -> dict[str, Any]:
    """How many answers in words could not be read, by reason."""
    reasons = Counter(row["unparsed"] for row in rows if row.get("unparsed"))
    return {"unparsed": dict(reasons.most_common())} if any(row.get("said") is not None for row in rows) else {}


def degenerate(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The letter a model answers whatever is asked, or None: it gives it in at least 90 % of its answers, or in most of
    them and its accuracy is exactly the score of always giving it.

    Equal scores alone would not do: of random answers to 300 questions, one in five equals some letter's score.
    """
    letter, times = min(Counter(row["chosen"] for row in rows).items(), key=lambda pair: (-pair[1], pair[0]))
    if not letter:  # most answers in words could not be read, which is said by itself
        return None
    share, always = times / len(rows), sum(row["answer"] == letter for row in rows)
    same = always == sum(row["right"] for row in rows)
    if share >= DEGENERATE_SHARE or (share > 0.5 and same):
        return {"letter": letter, "share": share, "score_of_always": always / len(rows)}
    return None


def warnings(name: str, protocols: dict[str, Any]) -> list[str]:
    """What a reader of a model's scores has to know."""
    return [f"{name}: {protocol}: {words}" for protocol, summary in protocols.items() for words in caveats(summary)]
