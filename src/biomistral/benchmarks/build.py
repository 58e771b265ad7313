"""Make a benchmark folder (docs/formats.md): questions, what is to be taught, training text, and a summary."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace
from biomistral.benchmarks import medconcepts, teaching
from biomistral.benchmarks.distances import Distances
from biomistral.benchmarks.published import suite
from biomistral.benchmarks.published.draft import Refusal
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.codes import Hierarchy, load
from biomistral.errors import UserError
from biomistral.files import files_under, write_json, write_text
from biomistral.progress import log, track
from biomistral.records import Question, write_questions

SPLITS = ("train", "dev", "validation", "test")
_US_GOVERNMENT = "PD-US-Gov"
LICENCES = {"ICD10CM": _US_GOVERNMENT, "ICD9CM": _US_GOVERNMENT, "ICD9PROC": _US_GOVERNMENT, "ICD10PROC": _US_GOVERNMENT,
            "ATC": "copyright WHO Collaborating Centre for Drug Statistics Methodology; not to be passed on"}


@dataclass
class Suite:
    """A benchmark on its way to disk: its questions, and per task where they are from and how many there could be."""

    questions: Iterator[Question]
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    taught: dict[str, Any] | None = None
    train: Iterator[dict[str, str]] | None = None


def build(work: Workspace) -> None:
    """Build the suite that the settings name, from a clean folder.

    Raises:
        UserError: an input cannot be read, or nothing can be asked about it.
    """
    for leftover in files_under(work.path):
        leftover.unlink()
    _write(work, medconceptsqa(work) if work.settings.suite == "medconceptsqa" else published(work))


def published(work: Workspace) -> Suite:
    """A suite of published benchmarks; rows that give no question are kept in ``refused.jsonl`` with their reason."""
    settings: BenchmarkSettings = work.settings
    gathered = suite.gather(settings.suite, [work.locate(place) for place in settings.files])
    for path in gathered.others:
        log.warning("%s: no file of this suite; left out", path)
    made = Suite(iter(()))
    for name in gathered.files:
        source = suite.SOURCES[name]
        work.licences[source.licence] = work.licences.get(source.licence, 0) + 1
        made.tasks |= {task: {"licence": source.licence, "source": source.paper} for task in source.tasks}
    made.questions = _read(work, gathered)
    return made


def _read(work: Workspace, gathered: suite.Gathered) -> Iterator[Question]:
    """The questions; afterwards the refusals are counted and written, and unexpected sizes said."""
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    refused = []
    for item in suite.read(gathered, work.settings.seed):
        if isinstance(item, Refusal):
            refused.append(json.dumps(asdict(item), ensure_ascii=False))
            reasons[item.reason] += 1
            continue
        counts[item.task, item.split] += 1
        yield item
    notes = suite.odd_sizes(work.settings.suite, counts)
    for note in notes:
        log.warning(note)
    work.facts |= {"refused": dict(reasons), "sizes": notes, "files_left_out": [path.name for path in gathered.others]}
    if refused:
        log.warning("%d rows give no question: refused.jsonl says why", len(refused))
        write_text(work.path / "refused.jsonl", "\n".join(refused) + "\n")


def medconceptsqa(work: Workspace) -> Suite:
    """MedConceptsQA over the vocabularies of the settings, read one after the other before anything is written."""
    settings: BenchmarkSettings = work.settings
    hierarchies = {name: load(name, work.locate(place)) for name, place in settings.vocabularies.items()}
    for name, hierarchy in hierarchies.items():
        work.facts[name] = {"nodes": len(hierarchy), "named": sum(bool(node.name) for node in hierarchy.nodes.values())}
        licence = LICENCES.get(name, "not stated")
        work.licences[licence] = work.licences.get(licence, 0) + 1
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    suite = Suite(iter(()))
    if settings.teach is not None:
        hierarchy = hierarchies[settings.teach.vocabulary]
        taught, untaught = teaching.choose(hierarchy, settings.teach, settings.seed)
        groups[hierarchy.vocabulary] = {"taught": taught.codes, "untaught": untaught.codes}
        suite.taught = {"vocabulary": hierarchy.vocabulary, "categories": taught.categories, "codes": taught.codes}
        suite.train = teaching.training_rows(hierarchy, taught.codes)
        work.facts["untaught"] = {"categories": untaught.categories, "codes": untaught.codes}
    suite.questions = _questions(settings, hierarchies, groups, suite.tasks)
    return suite


def _questions(settings: BenchmarkSettings, hierarchies: dict[str, Hierarchy],
               groups: dict[str, dict[str, tuple[str, ...]]], tasks: dict[str, dict[str, Any]]) -> Iterator[Question]:
    for name, hierarchy in hierarchies.items():
        distances = Distances(hierarchy)
        for level in settings.levels:
            questions = medconcepts.QuestionSet(hierarchy, distances, level, settings.seed)
            askable = questions.askable()
            tasks[questions.task] = {"licence": LICENCES.get(name, "not stated"), "available": len(askable),
                                     "source": _source(settings.vocabularies[name])}
            plan = list(_plan(settings, questions, askable, groups.get(name)))
            for code, split, group in track(plan, f"{name} {level}"):
                yield questions.question(code, split, group)


def _plan(settings: BenchmarkSettings, questions: medconcepts.QuestionSet, askable: list[str],
          groups: dict[str, tuple[str, ...]] | None) -> Iterator[tuple[str, str, str | None]]:
    """Which codes are asked about: (code, split, group).

    Where codes are taught, the shots come from codes outside both groups, so that every code of a group is asked about.
    Questions of other vocabularies have no group: mixed into the untaught ones they would not be a fair comparison.
    """
    if groups is None:
        for code, split in medconcepts.split(questions.ordered(askable), settings.shots, settings.validation, settings.limit):
            yield code, split, None
        return
    assert settings.teach is not None
    grouped = {code for codes in groups.values() for code in codes}
    rest = questions.ordered(code for code in askable if code not in grouped)
    yield from ((code, "dev", None) for code in rest[: settings.shots])
    known = set(askable)
    for group, codes in groups.items():
        ordered = questions.ordered(code for code in codes if code in known)
        for code, split in medconcepts.split(ordered, 0, settings.validation, settings.teach.limit):
            yield code, split, group


def _source(name: str) -> str:
    """An input's name without its place on this machine: the same input gives the same bytes anywhere."""
    return name if name.startswith(("embedded:", "hub:")) else Path(name).name


def _write(work: Workspace, suite: Suite) -> None:
    tally: Counter[tuple[str, str]] = Counter()
    groups: Counter[str] = Counter()

    def counted() -> Iterator[Question]:
        for question in suite.questions:
            tally[question.task, question.split] += 1
            if question.split == "test" and "group" in question.meta:
                groups[question.meta["group"]] += 1
            yield question

    total = write_questions(work.path / "questions.parquet", counted())
    if not any(split == "test" for _, split in tally):
        (work.path / "questions.parquet").unlink()
        raise UserError("no question can be asked: each needs three other codes at its level's distance; give a list of "
                        "codes with parents, other levels, or fewer shots and validation questions"
                        if work.settings.suite == "medconceptsqa" else "the files hold no test question")
    tasks: dict[str, dict[str, Any]] = {}
    for task, about in suite.tasks.items():
        splits = {split: tally[task, split] for split in SPLITS if split != "train" or tally[task, split]}
        work.counts[task] = splits | ({"available": about["available"]} if "available" in about else {})
        if not splits["test"]:
            log.warning("%s: no test question%s; left out", task,
                        f" ({about['available']} codes can be asked about)" if "available" in about else "")
        else:
            tasks[task] = {**splits, "licence": about["licence"], "source": about["source"]}
    work.counts |= {"questions": total, **{f"test_{group}": count for group, count in sorted(groups.items())}}
    if suite.taught is not None:
        write_json(work.path / "taught.json", suite.taught)
    if suite.train is not None:
        lines = [json.dumps(row, ensure_ascii=False) for row in suite.train]
        write_text(work.path / "train.jsonl", "\n".join(lines) + "\n")
        work.counts["train"] = len(lines)
    write_json(work.path / "benchmark.json", {"name": work.settings.suite, "tasks": tasks})
