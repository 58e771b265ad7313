"""The questions of benchmarks as one table of hashed word runs, however many they are: 19 bytes a word, on the disk if wanted.

A document costs one look-up a word; a hit is then checked on the whole run. Runs are keyed by their first 8 words (4 if they
are shorter), so that runs of 8 to 13 words are found in one pass.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from biomistral.corpus.cleaning.gram_table import GramTable, build_table, expand
from biomistral.corpus.cleaning.shingles import Hashes, Offsets, Words, ngrams, ngrams_at, words_of
from biomistral.files import write_json
from biomistral.records import Question

FIELDS = ("stem", "context", "option")
_KEY_WORDS = (8, 4)
SHORTEST_STEM = 4
_MOST_OWNERS = 50
_ARRAYS = ("parts", "answers", "names", "name_starts", "task_of")
_CHUNK = 1 << 20  # characters whose words are taken at once: a call a part would take ten times as long


class Match(NamedTuple):
    """A part of a question found in a document: where (character offsets) and what."""

    question: str
    task: str
    field: str
    start: int
    end: int


class Part(NamedTuple):
    """One stem, context or option: of which question (a number), which field, and how many words its runs have.

    With ``answer_words`` it counts only where the right answer, of so many words, stands beside it.
    """

    question: int
    field: int
    size: int
    answer_words: int


@dataclass(frozen=True)
class Runs:
    """Word runs by their key; ``tails`` are bits of the whole run's hash, ``parts`` whose it is."""

    table: GramTable
    tails: npt.NDArray[np.uint32]
    parts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class QuestionIndex:
    """Every run of words that is looked for. Pickled as the name of its folder if it has one, so that workers share pages."""

    runs: dict[int, Runs]
    """By the number of words in the key."""
    parts: npt.NDArray[np.int32]
    """Shape ``(parts, 4)``: the fields of `Part`."""
    answers: Hashes
    """Shape ``(parts,)``: hash of the right answer, where one is needed."""
    names: npt.NDArray[np.uint8]
    """Ids of the questions in a row, UTF-8; where each begins, and the end."""
    name_starts: npt.NDArray[np.int64]
    task_of: npt.NDArray[np.int32]
    """Shape ``(questions,)``: index into ``tasks``."""
    tasks: tuple[str, ...]
    asked: tuple[int, ...]
    """Questions of each task, those without a part long enough included."""
    folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:
            return open_index, (self.folder,)
        return QuestionIndex, tuple(getattr(self, each.name) for each in fields_of(self))

    def matches(self, text: str, words: Words) -> list[Match]:
        """Every part of a question that stands in the text, once each run of words, by place."""
        found = [match for key_words, runs in self.runs.items() for match in self._in(runs, key_words, text, words)]
        return sorted(found, key=lambda match: (match.start, match.end, match.task, match.question, match.field))

    def _in(self, runs: Runs, key_words: int, text: str, words: Words) -> Iterator[Match]:
        places, rows = runs.table.find(ngrams(words.hashes, key_words))
        sizes = self.parts[runs.parts[rows], Part._fields.index("size")]
        whole = places + sizes <= len(words)
        places, rows, sizes = places[whole], rows[whole], sizes[whole]
        for size in set(sizes.tolist()):
            mine = sizes == size
            tails = ngrams_at(words.hashes, places[mine], size).astype(np.uint32)
            same = tails == runs.tails[rows[mine]]
            for part, first, last in _joined(runs.parts[rows[mine][same]], places[mine][same]) if same.any() else ():
                question, field, _, answer_words = self.parts[part].tolist()
                if not answer_words or _stands_beside(self.answers[part], answer_words, text, words, first, last + size):
                    yield Match(self._name(question), self.tasks[self.task_of[question]], FIELDS[field],
                                int(words.starts[first]), int(words.ends[last + size - 1]))

    def _name(self, question: int) -> str:
        return bytes(self.names[self.name_starts[question]:self.name_starts[question + 1]]).decode()

    def searched(self) -> Counter[str]:
        """Questions of each task with at least one part that is looked for."""
        numbers = np.unique(self.parts[:, 0])
        return Counter(self.tasks[task] for task in self.task_of[numbers].tolist())


def _stands_beside(answer: np.uint64, size: int, text: str, words: Words, first: int, end: int) -> bool:
    """Whether the answer stands in the paragraph of the words from ``first`` to ``end``, before or after them."""
    begin = text.rfind("\n\n", 0, int(words.starts[first])) + 1
    finish = text.find("\n\n", int(words.ends[end - 1])) % (len(text) + 1)  # -1: the end of the text
    low, high = (int(np.searchsorted(words.starts, place)) for place in (begin, finish))
    return any(bool((ngrams(words.hashes[span], size) == answer).any()) for span in (slice(low, first), slice(end, high)))


def _joined(parts: npt.NDArray[np.int32], places: Offsets) -> Iterator[tuple[int, int, int]]:
    """Neighbouring places of one part, joined: (part, first, last)."""
    order = np.lexsort((places, parts))
    parts, places = parts[order], places[order]
    new: npt.NDArray[np.bool_] = np.ones(len(parts), np.bool_)
    new[1:] = (parts[1:] != parts[:-1]) | (places[1:] > places[:-1] + 1)
    first = np.flatnonzero(new)
    last = np.concatenate((first[1:], [len(parts)])) - 1
    yield from zip(parts[first].tolist(), places[first].tolist(), places[last].tolist(), strict=True)


# ---- building -------------------------------------------------------------------------------------------------------


def build_index(questions: Iterable[Question], fields: Sequence[str], ngram: int, shortest: int,
                except_for: Sequence[str] = (), with_answer: bool = False, folder: Path | None = None) -> QuestionIndex:
    """Index the chosen fields: all runs of ``ngram`` words; a shorter part as a whole if it has ``shortest`` words.

    ``with_answer``: a stem shorter than that, of at least 4 words, counts where the right answer stands in its paragraph.
    Of a run that stands in more than 50 parts the first 50 are named. Runs that lie wholly in one of the phrases
    ``except_for`` are left out. With a ``folder`` the index is written there and mapped, not loaded.
    """
    names: list[bytes] = []
    tasks: dict[str, int] = {}
    task_of: list[int] = []

    def texts() -> Iterator[_Text]:
        for number, question in enumerate(questions):
            names.append(question.id.encode())
            task_of.append(tasks.setdefault(question.task, len(tasks)))
            answer = question.options[question.answer_index] if with_answer else ""
            yield from (_Text(number, FIELDS.index(field), text, answer if field == "stem" else "")
                        for field, text in _fields(question, fields))

    ignored = np.unique(np.concatenate([np.zeros(0, np.uint64), *(
        ngrams(words_of(phrase).hashes, size) for phrase in except_for for size in range(shortest, ngram + 1))]))
    found = _Builder(ngram, shortest, ignored)
    for chunk in _chunks(texts()):
        found.add(chunk)
    asked = np.bincount(np.array(task_of, np.int64), minlength=len(tasks))
    index = QuestionIndex(found.runs(), found.parts(), found.answers(), np.frombuffer(b"".join(names), np.uint8),
                          np.cumsum([0, *map(len, names)]), np.array(task_of, np.int32), tuple(tasks), tuple(asked.tolist()))
    return _written(index, folder) if folder is not None else index


class _Text(NamedTuple):
    """A part as it comes; ``answer`` if it may be a short one."""

    question: int
    field: int
    text: str
    answer: str


def _fields(question: Question, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "stem" in fields:
        yield "stem", question.stem
    if "context" in fields and question.context:
        yield "context", question.context
    if "option" in fields:
        for option in question.options:
            yield "option", option


def _chunks(texts: Iterable[_Text]) -> Iterator[list[_Text]]:
    chunk: list[_Text] = []
    size = 0
    for item in texts:
        chunk.append(item)
        size += len(item.text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    yield chunk


class _Builder:
    """Collects (key, tail, part) of every run, by the number of words in the key."""

    def __init__(self, ngram: int, shortest: int, ignored: Hashes) -> None:
        self._ngram, self._shortest, self._ignored = ngram, shortest, ignored
        self._parts: list[npt.NDArray[np.int32]] = []
        self._answers: list[Hashes] = []
        self._num_parts = 0
        self._found: dict[int, list[tuple[Hashes, npt.NDArray[np.uint32], npt.NDArray[np.int32]]]] = {}

    def add(self, texts: list[_Text]) -> None:
        """Take the words of many parts at once; a run never goes over a part's end."""
        words = words_of("\n".join(each.text for each in texts))
        ends = np.cumsum([len(each.text) + 1 for each in texts])
        borders = np.concatenate(([0], np.searchsorted(words.starts, ends)))
        sizes = np.minimum(np.diff(borders), self._ngram)
        answered = np.array([any(map(str.isalnum, each.answer)) for each in texts], np.bool_)
        known = np.flatnonzero((sizes >= self._shortest) | (answered & (sizes >= SHORTEST_STEM)))
        for size in np.unique(sizes[known]).tolist():
            mine = known[sizes[known] == size]
            parts, places = expand(mine, borders[mine], borders[mine + 1] - size + 1)
            whole = ngrams(words.hashes, size)[places]
            wanted = np.isin(whole, self._ignored, invert=True) if len(self._ignored) else np.ones(len(whole), np.bool_)
            numbers: npt.NDArray[np.int32] = (np.searchsorted(known, parts) + self._num_parts).astype(np.int32)
            key_words = next((words for words in _KEY_WORDS if words <= size), size)
            keys = ngrams(words.hashes, key_words)[places]
            self._found.setdefault(key_words, []).append((keys[wanted], whole[wanted].astype(np.uint32), numbers[wanted]))
        self._name([texts[number] for number in known.tolist()], sizes[known])

    def _name(self, texts: list[_Text], sizes: Offsets) -> None:
        parts: npt.NDArray[np.int32] = np.zeros((len(texts), len(Part._fields)), np.int32)
        answers: Hashes = np.zeros(len(texts), np.uint64)
        for number, (each, size) in enumerate(zip(texts, sizes.tolist(), strict=True)):
            answer = words_of(each.answer).hashes if size < self._shortest else ()
            parts[number] = Part(each.question, each.field, size, len(answer))
            if len(answer):
                answers[number] = ngrams(answer, len(answer))[0]
        self._parts.append(parts)
        self._answers.append(answers)
        self._num_parts += len(texts)

    def answers(self) -> Hashes:
        return np.concatenate(self._answers)

    def parts(self) -> npt.NDArray[np.int32]:
        return np.concatenate(self._parts)

    def runs(self) -> dict[int, Runs]:
        return {size: _sorted(*map(np.concatenate, zip(*self._found.pop(size), strict=True))) for size in sorted(self._found)}


def _sorted(keys: Hashes, tails: npt.NDArray[np.uint32], parts: npt.NDArray[np.int32]) -> Runs:
    order = np.lexsort((parts, tails, keys))
    keys, tails, parts = keys[order], tails[order], parts[order]
    new: npt.NDArray[np.bool_] = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (tails[1:] != tails[:-1])
    first = np.flatnonzero(new)
    few = np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys))) < _MOST_OWNERS
    return Runs(build_table(keys[few]), tails[few], parts[few])


# ---- on the disk ----------------------------------------------------------------------------------------------------


def _written(index: QuestionIndex, folder: Path) -> QuestionIndex:
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(index, name))
    for size, runs in index.runs.items():
        table = runs.table
        arrays = (table.keys, table.starts, table.bloom, runs.tails, runs.parts)
        for name, array in zip(("keys", "starts", "bloom", "tails", "parts"), arrays, strict=True):
            np.save(folder / f"{size}.{name}.npy", array)
    write_json(folder / "index.json", {"sizes": list(index.runs), "tasks": index.tasks, "asked": index.asked})
    return open_index(folder)


def open_index(folder: Path) -> QuestionIndex:
    """The index written in a folder, mapped: its pages are shared by all processes of a machine."""
    known = json.loads((folder / "index.json").read_text(encoding="utf-8"))

    def mapped(name: str) -> npt.NDArray[Any]:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

    runs = {size: Runs(GramTable(mapped(f"{size}.keys"), mapped(f"{size}.starts"), mapped(f"{size}.bloom")),
                       mapped(f"{size}.tails"), mapped(f"{size}.parts")) for size in known["sizes"]}
    parts, answers, names, name_starts, task_of = map(mapped, _ARRAYS)
    return QuestionIndex(runs, parts, answers, names, name_starts, task_of, tuple(known["tasks"]), tuple(known["asked"]), folder)
