"""The ``benchmark`` stage: MedConceptsQA from code lists, or a suite of published files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace
from biomistral.benchmarks import folder, medconcepts, teaching
from biomistral.benchmarks.distances import Distances
from biomistral.benchmarks.folder import Suite
from biomistral.benchmarks.published.build import published
from biomistral.benchmarks.settings import BenchmarkSettings
from biomistral.codes import Hierarchy, load
from biomistral.files import files_under
from biomistral.progress import track
from biomistral.records import Question

_US_GOVERNMENT = "PD-US-Gov"
LICENCES = {"ICD10CM": _US_GOVERNMENT, "ICD9CM": _US_GOVERNMENT, "ICD9PROC": _US_GOVERNMENT, "ICD10PROC": _US_GOVERNMENT,
            "ATC": "copyright WHO Collaborating Centre for Drug Statistics Methodology; not to be passed on"}
_NOTHING = ("no question can be asked: each needs three other codes at its level's distance; give a list of codes with parents, "
            "other levels, or fewer shots and validation questions")


def build(work: Workspace) -> None:
    """Build the suite that the settings name, from a clean folder.

    Raises:
        UserError: an input cannot be read, or nothing can be asked about it.
    """
    for leftover in files_under(work.path):
        leftover.unlink()
    name = work.settings.suite
    folder.write(work, name, medconceptsqa(work) if name == "medconceptsqa" else published(work))


def medconceptsqa(work: Workspace) -> Suite:
    """MedConceptsQA over the vocabularies of the settings, read one after the other before anything is written."""
    settings: BenchmarkSettings = work.settings
    hierarchies = {name: load(name, work.locate(place)) for name, place in settings.vocabularies.items()}
    for name, hierarchy in hierarchies.items():
        work.facts[name] = {"nodes": len(hierarchy), "named": sum(bool(node.name) for node in hierarchy.nodes.values())}
        licence = LICENCES.get(name, "not stated")
        work.licences[licence] = work.licences.get(licence, 0) + 1
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    suite = Suite(iter(()), nothing=_NOTHING)
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
