"""MedMCQA (Pal et al., 2022, arXiv 2203.14371): its JSON Lines count the right option from 1, the hub's Parquet from 0.

The official test set has no answers: the official validation set is the test, and a fifth of the official train set, drawn by
the seed, is validation, as in BioMistral (146,257 and 36,565 of 182,822).
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from biomistral.benchmarks.published.draft import Draft, Refusal, attempt
from biomistral.benchmarks.published.files import DataFile, Row
from biomistral.errors import UserError
from biomistral.records import Question
from biomistral.seeds import seed

TASKS = ("medmcqa",)
_OPTIONS = ("opa", "opb", "opc", "opd")
_TRAIN_SHARE = 0.8


def recognises(file: DataFile) -> bool:
    return file.first.keys() >= {"question", *_OPTIONS}


def read(files: list[DataFile], root: int) -> Iterator[Question | Refusal]:
    """Questions with one or with several right options alike (``choice_type``); the official test set is counted as refused.

    Raises:
        UserError: a file does not show whether it counts from 0 or from 1.
    """
    for file in files:
        if file.split is None:
            raise UserError(f"{file.path}: its name says no split; MedMCQA's files are train, dev (or validation) and test")
        first = _first_option(file)
        training = iter(_training_splits(file, root)) if file.split == "train" else None
        for place, row in file.rows():
            split = next(training) if training is not None else "test"
            if file.split == "test":
                yield Refusal(place, "MedMCQA's official test set has no answers")
            else:
                yield attempt(place, partial(_question, row, split, first, place))


def _first_option(file: DataFile) -> int:
    """What ``cop`` is for the first option: 1 if some row says 4, 0 if some says 0. Unmarked rows say -1 or nothing."""
    if file.split == "test":
        return 0
    seen = {row.get("cop") for _, row in file.rows()}
    if (0 in seen) != (4 in seen):
        return 0 if 0 in seen else 1
    what = "neither 0 nor 4" if 0 not in seen else "both 0 and 4"
    raise UserError(f"{file.path}: 'cop' is {what} in its rows, so it does not show whether options are counted from 0 or from "
                    "1; give the whole file as published")


def _training_splits(file: DataFile, root: int) -> list[str]:
    count = sum(1 for _ in file.rows())
    splits: np.ndarray = np.full(count, "validation", dtype=object)
    order = np.random.default_rng(seed(root, "medmcqa", "validation")).permutation(count)
    splits[order[:int(_TRAIN_SHARE * count)]] = "train"
    return list(splits)


def _question(row: Row, split: str, first: int, place: str) -> Question | Refusal:
    if row.get("cop") is None:
        return Refusal(place, "no right option is marked")
    meta = {name: row[name] for name in ("subject_name", "choice_type") if row.get(name)}
    return Draft("medmcqa", split, str(row.get("id") or place.rpartition(":")[2]), str(row["question"]),
                 [str(row[name] or "") for name in _OPTIONS], int(row["cop"]) - first, meta=meta).question(place)
