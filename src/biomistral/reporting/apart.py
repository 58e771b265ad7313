"""Languages of one model that were measured apart: results folders whose questions are twins, told by task and id."""

from collections.abc import Iterator, Sequence
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.results import Run
from biomistral.scoring.gaps import ENGLISH, Asked, Scores, gaps


def languages_of(run: Run, everything: Sequence[Run]) -> dict[str, Any]:
    """A run's scores by language (as ``languages`` of a protocol in ``results.json``), with those of the runs beside it where it
    has English: gaps are what they would be had all been asked together.

    Raises:
        UserError: see `beside`.
    """
    found = _own(run)
    others = beside(run, everything)
    if not others:
        return found
    for other in others:
        found |= {language: {**scores, "gap": None} for language, scores in _own(other).items()}
    asked = {language: _scores(one, language) for one in (run, *others) for language in _own(one) if language != ENGLISH}
    for language, gap in gaps(asked, _scores(run, ENGLISH), run.protocol).items():
        found[language]["gap"] = gap
    return found


def beside(run: Run, everything: Sequence[Run]) -> list[Run]:
    """Runs of the same model, asked alike, with questions of a run's English ones in languages that it has not; of two in one
    language the first.

    Raises:
        UserError: two twins have other options or another right one.
    """
    seen, found = set(run.languages), []
    if ENGLISH in seen:
        for other in everything:
            if alike(run, other) and seen.isdisjoint(other.languages) and _twins(run, other):
                seen |= set(other.languages)
                found.append(other)
    return found


def alike(run: Run, other: Run) -> bool:
    """Whether one model was asked in one way, but for the words of its language."""
    return (run.model.name, run.model.key, run.protocol, run.permutations, _definition(run)) == (
        other.model.name, other.model.key, other.protocol, other.permutations, _definition(other))


def gap_rows(run: Run, others: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """`compare`'s rows of each language beside a run's English: ``model`` and ``baseline`` say the language, ``without_twin`` how
    many questions count in none of it."""
    found = beside(run, others)
    languages = languages_of(run, others)
    for other in found:
        for language in _own(other):
            gap = languages[language]["gap"]
            about = {"benchmark": other.benchmark.name, "protocol": run.protocol, "definition_hash": run.summary.definition_hash,
                     "compared": len(languages) - 1, "baseline": f"{run.model.name} in {ENGLISH}",
                     "model": f"{run.model.name} in {language}", "folder": str(other.folder)}
            scopes = {("overall", "overall"): gap["overall"], **{("task", task): one for task, one in gap["tasks"].items()}}
            yield from ({**about, "kind": kind, "scope": scope, **_difference(one)} for (kind, scope), one in scopes.items()
                        if one["n"] and (kind == "overall" or len(gap["tasks"]) > 1))


def _difference(gap: dict[str, Any]) -> dict[str, Any]:
    """A GAP as a row of `compare`."""
    return {**{name: value for name, value in gap.items() if name != "english"}, "baseline_accuracy": gap["english"],
            "detectable": None}


def _own(run: Run) -> dict[str, Any]:
    """The scores of the run's own languages; an older folder of one language does not say them apart."""
    summary = run.summary.model_dump()
    only = {name: summary[name] for name in ("tasks", "overall", "average", "calibration")} | {"gap": None}
    return summary["languages"] or ({str(run.languages[0]): only} if len(set(run.languages)) == 1 else {})


def _definition(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.summary.definition.items() if name != "scaffold"}


def _scores(run: Run, language: str) -> Scores:
    places = run.places("language", language)
    return {(run.tasks[place], run.names[place]): Asked(float(run.scores[place]), run.clusters[place]) for place in places}


def _twins(run: Run, other: Run) -> bool:
    """Whether any question of the other has an English one here."""
    english = {(run.tasks[place], run.names[place]): run.marks[place] for place in run.places("language", ENGLISH)}
    found = False
    for task, name, mark in zip(other.tasks, other.names, other.marks, strict=True):
        if (task, name) in english:
            found = True
            if english[task, name] != mark:
                raise UserError(f"{other.folder}: question {name!r} has {mark}, in {run.folder} {english[task, name]}: no "
                                "translation of it; leave one of the folders out")
    return found
