"""The same question with its options in another order: what of an answer is knowledge, and what is a habit of place.

``meta`` of a question so put says which ``permutation`` it is and in which ``order`` its published options stand.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from biomistral.records import LETTERS, Question
from biomistral.seeds import seed


def orders(question: Question, count: int, root: int) -> list[tuple[int, ...]]:
    """``count`` orders of the options, the published one first; no two alike as long as there are others left.

    A function of (root, question id): a larger ``count`` only adds orders.
    """
    generator = random.Random(seed(root, "permutations", question.id))
    published = tuple(range(len(question.options)))
    found = [published]
    while len(found) < count:
        order = tuple(generator.sample(published, len(published)))
        if order not in found or len(found) >= math.factorial(len(published)):
            found.append(order)
    return found


def permuted(questions: Sequence[Question], count: int, root: int) -> list[Question]:
    """Every question in each of its orders: first all as published, then all in their first other order, and so on."""
    ways = [orders(question, count, root) for question in questions]
    return [_in_order(question, number, way[number]) for number in range(count)
            for question, way in zip(questions, ways, strict=True)]


def _in_order(question: Question, number: int, order: tuple[int, ...]) -> Question:
    if number == 0:
        return question
    return question.model_copy(update={
        "options": tuple(question.options[place] for place in order), "answer": LETTERS[order.index(question.answer_index)],
        "meta": {**question.meta, "permutation": number, "order": list(order)}})


def published_letter(row: dict[str, Any], letter: str) -> str:
    """The letter under which the option that a row calls ``letter`` was published; ``""`` (no answer) stays."""
    return LETTERS[row["order"][LETTERS.index(letter)]] if letter and row.get("order") is not None else letter


def published_probabilities(row: dict[str, Any]) -> list[float]:
    """The row's probabilities in the published order of the options."""
    shown: list[float] = row["probabilities"]
    if row.get("order") is None:
        return shown
    found = [0.0] * len(shown)
    for place, option in enumerate(row["order"]):
        found[option] = shown[place]
    return found
