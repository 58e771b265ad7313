"""What was asked, for people to read: the questions behind results, and the prompt that a model saw, proved by its hash."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomistral.artifact import input_key, is_artifact
from biomistral.errors import UserError
from biomistral.recipe import canonical_hash
from biomistral.records import Question
from biomistral.reporting.results import Results
from biomistral.scoring.prompts import PROTOCOLS, Protocol, build_messages, build_prompt, choose_shots, cloze_continuations
from biomistral.scoring.questions import read_benchmark
from biomistral.scoring.scaffold import with_own_words

Identity: TypeAlias = tuple[str, str]
Recorded: TypeAlias = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """Questions of a benchmark and its translations, by language and id; ``tasks``: licence and source, where they are stated."""

    questions: Mapping[Identity, Question]
    tasks: Mapping[str, Mapping[str, Any]]
    split: str
    seed: int

    @property
    def shots_from(self) -> Sequence[Question]:
        return list(self.questions.values())


@dataclass(frozen=True)
class Prompt:
    """What a model was given for one question: one text, or the turns of a chat, which its own template then joins.

    ``proved``: the hash that was recorded with the answer is this prompt's. ``continuations``: the texts whose likelihood was
    measured behind it, of cloze.
    """

    language: str
    question: str
    turns: list[tuple[str, str]]
    continuations: list[str]
    shots: int
    proved: bool


class Library:
    """Benchmarks, each read once, however many results folders are about it."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, ...], Asked | None] = {}
        self._recorded: dict[tuple[Path, str], Recorded] = {}

    def recorded(self, folder: Path, protocol: str) -> Recorded:
        """See `recorded`; read once for all tasks."""
        if (folder, protocol) not in self._recorded:
            self._recorded[folder, protocol] = recorded(folder, protocol)
        return self._recorded[folder, protocol]

    def asked(self, results: Results) -> Asked | None:
        """The questions of a results folder; None if a benchmark is not where it was, or not what it was."""
        manifest = results.artifact.manifest
        settings = manifest["settings"]
        names = [settings.get("benchmark"), *settings.get("translations", ())]
        entries = [entry for name in names for entry in manifest["inputs"] if entry["name"] == name]
        split, seed = results.summary.benchmark.split, settings.get("seed", 0)
        key = (*(entry["key"] for entry in entries), split, str(seed))
        if key not in self._read:
            self._read[key] = _read(entries, results.artifact.path.parent, split, seed)
        return self._read[key]


def _read(entries: Sequence[Mapping[str, Any]], beside: Path, split: str, seed: int) -> Asked | None:
    questions: dict[Identity, Question] = {}
    tasks: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        place = _found(Path(entry["path"]), entry["key"], beside)
        if place is None:
            return None
        try:
            for question in read_benchmark(place):
                questions.setdefault(question.identity, question)
        except UserError:  # it is what was asked, but not for this version's eyes
            return None
        tasks = {**_about(place), **tasks}
    return Asked(questions, tasks, split, seed) if questions else None


def _found(recorded: Path, key: str, beside: Path) -> Path | None:
    """Where a benchmark lies: at its recorded place, else under the same name beside the results; None if neither is it."""
    for place in (recorded, beside / recorded.name):
        if (is_artifact(place) or place.is_file()) and input_key(place) == key:
            return place
    return None


def _about(place: Path) -> dict[str, Mapping[str, Any]]:
    file = place / "benchmark.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["tasks"]) if place.is_dir() and file.is_file() else {}


def recorded(folder: Path, protocol: str) -> Recorded:
    """For each task and language the first question that was asked as published behind the first shots: its id, the hash of its
    prompt and how many shots it got. Empty of a folder that keeps no such hashes."""
    names = ["task", "language", "question", "prompt_hash", "shots"]
    file = folder / "answers.parquet"
    there = set(pq.read_schema(file).names)
    if not there.issuperset(names):
        return {}
    more = [name for name in ("shot_set", "permutation") if name in there]
    table = pq.read_table(file, columns=[*names, *more], filters=[("protocol", "=", protocol)])
    for name in more:
        table = table.filter(pc.equal(pc.fill_null(table[name], 0), 0))
    first = table.select(names).group_by(["task", "language"], use_threads=False).aggregate(
        [(name, "first") for name in ("question", "prompt_hash", "shots")])
    return {(row["task"], row["language"]): {name: row[f"{name}_first"] for name in ("question", "prompt_hash", "shots")}
            for row in first.to_pylist()}


def prompt(asked: Asked, protocol: str, task: str, language: str, row: Mapping[str, Any]) -> Prompt | None:
    """The prompt of a recorded answer, made again; None if it cannot be."""
    if protocol not in PROTOCOLS or (language, row["question"]) not in asked.questions:
        return None
    how, question = PROTOCOLS[protocol], asked.questions[language, row["question"]]
    try:
        shots = choose_shots(asked.shots_from, task, how, 0, asked.seed, asked.split, language)[: row["shots"]]
        if how.translated:
            question, shots = with_own_words(question), list(map(with_own_words, shots))
    except UserError:  # another version chose shots from splits that are not there
        return None
    return _prompt(how, question, shots, row["prompt_hash"])


def _prompt(how: Protocol, question: Question, shots: Sequence[Question], prompt_hash: str | None) -> Prompt:
    continuations = [] if how.by_letter else cloze_continuations(question, how)
    if how.chat:
        turns = [(turn["role"], turn["content"]) for turn in build_messages(question, shots, how)]
        return Prompt(question.language, question.id, turns, continuations, len(shots), proved=False)
    text = build_prompt(question, shots, how)
    proved = canonical_hash([text, *question.options])[:16] == prompt_hash
    return Prompt(question.language, question.id, [("", text)], continuations, len(shots), proved)
