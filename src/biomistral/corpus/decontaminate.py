"""Find the questions of a benchmark in the corpus: runs of 13 words, and shorter stems, contexts or options as a whole.

The questions are one sorted table of 64-bit hashes, so a document costs one look-up a word whatever their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from biomistral.corpus.shingles import Hashes, Words, ngrams, words_of
from biomistral.records import Question

_FILTER_BITS = 22
_MAX_SPAN = 300
Table: TypeAlias = tuple[Hashes, npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""Sorted unique hashes; the first part that holds each; which leading 22 bits occur at all, for a quick first look."""


@dataclass(frozen=True)
class Match:
    """A part of a question found in a document: where (character offsets) and what."""

    question: str
    task: str
    field: str
    start: int
    end: int


@dataclass(frozen=True)
class QuestionIndex:
    """For each length in words: the sorted hashes of the questions' word runs, and which part each belongs to."""

    parts: tuple[tuple[str, str, str], ...]
    """(question, task, field)"""
    grams: dict[int, Table]

    def matches(self, text: str, words: Words) -> list[Match]:
        """Every part of a question that stands in the text, once each run of words, by place."""
        found = [match for size, table in sorted(self.grams.items()) for match in self._of_size(size, table, words)]
        return sorted(found, key=lambda match: (match.start, match.end, match.question, match.field))

    def _of_size(self, size: int, table: Table, words: Words) -> Iterator[Match]:
        known, parts, buckets = table
        grams = ngrams(words.hashes, size)
        candidates = np.flatnonzero(buckets[grams >> np.uint64(64 - _FILTER_BITS)])
        at = np.minimum(np.searchsorted(known, grams[candidates]), len(known) - 1)
        hit = known[at] == grams[candidates]
        for first, last, part in _runs(candidates[hit].tolist(), parts[at[hit]].tolist()):
            question, task, field = self.parts[part]
            yield Match(question, task, field, int(words.starts[first]), int(words.ends[last + size - 1]))


def _runs(places: Sequence[int], parts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring places of one part, joined: (first, last, part)."""
    start = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 1 or parts[index] != parts[start]:
            yield places[start], places[index - 1], parts[start]
            start = index


def build_index(questions: Iterable[Question], fields: Sequence[str], ngram: int, shortest: int) -> QuestionIndex:
    """Index the chosen fields: all runs of ``ngram`` words; a shorter part as a whole if it has ``shortest`` words."""
    parts: list[tuple[str, str, str]] = []
    hashes: dict[int, list[Hashes]] = {}
    owners: dict[int, list[npt.NDArray[np.int32]]] = {}
    for question in questions:
        for field, text in _fields(question, fields):
            words = words_of(text)
            size = min(ngram, len(words))
            if size >= shortest:
                grams = ngrams(words.hashes, size)
                hashes.setdefault(size, []).append(grams)
                owners.setdefault(size, []).append(np.full(len(grams), len(parts), np.int32))
                parts.append((question.id, question.task, field))
    return QuestionIndex(tuple(parts), {size: _table(hashes[size], owners[size]) for size in sorted(hashes)})


def _fields(question: Question, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "stem" in fields:
        yield "stem", question.stem
    if "context" in fields and question.context:
        yield "context", question.context
    if "option" in fields:
        for option in question.options:
            yield "option", option


def _table(hashes: list[Hashes], owners: list[npt.NDArray[np.int32]]) -> Table:
    known, first = np.unique(np.concatenate(hashes), return_index=True)
    buckets: npt.NDArray[np.bool_] = np.zeros(1 << _FILTER_BITS, np.bool_)
    buckets[known >> np.uint64(64 - _FILTER_BITS)] = True
    return known, np.concatenate(owners)[first], buckets


def span(text: str, match: Match) -> str:
    """The words that matched, shortened to 300 characters."""
    return " ".join(text[match.start:min(match.end, match.start + _MAX_SPAN)].split())


def cut(text: str, matches: Iterable[Match]) -> str:
    """The text without the paragraphs that hold a match, or a part of one."""
    spans = [(match.start, match.end) for match in matches]
    kept, start = [], 0
    for paragraph in text.split("\n\n"):
        end = start + len(paragraph)
        if not any(low < end and high > start for low, high in spans):
            kept.append(paragraph)
        start = end + 2
    return "\n\n".join(kept)
