"""Languages of one model that were measured apart: results folders whose questions are twins, told by task and id."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.reporting.results import Run
from biomistral.reporting.results_file import Fertility, LanguageScores
from biomistral.scoring.gaps import ENGLISH, Asked, Scores, gaps


def joined(run: Run, everything: Sequence[Run]) -> Run:
    """A run whose summary has the languages of the runs beside it too; the run itself if there are none.

    Raises:
        UserError: see `beside`.
    """
    others = beside(run, everything)
    if not others:
        return run
    languages = {name: LanguageScores.model_validate(scores) for name, scores in _languages_with(run, others).items()}
    costs = {name: cost for one in (run, *others) if one.fertility for name, cost in one.fertility.languages.items()}
    fertility = Fertility(context_length=run.fertility.context_length if run.fertility else None, languages=costs)
    return replace(run, summary=run.summary.model_copy(update={"languages": languages}), fertility=fertility)


def _languages_with(run: Run, others: Sequence[Run]) -> dict[str, Any]:
    """The scores by language (as ``languages`` of a protocol in ``results.json``) of a run that has English and of those beside
    it: gaps are what they would be had all been asked together."""
    found = _own(run)
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
    seen, found = _languages(run), []
    if ENGLISH in seen:
        for other in everything:
            if alike(run, other) and seen.isdisjoint(_languages(other)) and _twins(run, other):
                seen |= _languages(other)
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
    languages = _languages_with(run, found) if found else {}
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
    return summary["languages"] or ({_languages(run).pop(): only} if len(_languages(run)) == 1 else {})


def _definition(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.summary.definition.items() if name != "scaffold"}


def _scores(run: Run, language: str) -> Scores:
    names, clusters = _names(run), run.questionnaire.clusters.labels()
    return {names[place][0]: Asked(float(run.scores[place]), clusters[place]) for place in run.places("language", language)}


def _twins(run: Run, other: Run) -> bool:
    """Whether any question of the other has an English one here."""
    names = _names(run)
    english = dict(names[place] for place in run.places("language", ENGLISH))
    shared = [(name, mark) for name, mark in _names(other) if name in english]
    for name, mark in shared:
        if english[name] != mark:
            raise UserError(f"{other.folder}: question {name[1]!r} has {mark}, in {run.folder} {english[name]}: no translation "
                            "of it; leave one of the folders out")
    return bool(shared)


def _languages(run: Run) -> set[str]:
    return set(run.questionnaire.languages.names)


def _names(run: Run) -> list[tuple[tuple[str, str], str]]:
    """Of each question its task and id, and in words how many options it has and which is right."""
    asked = run.questionnaire
    _, first = np.unique(asked.place, return_index=True)
    rows = zip(*(asked.answers[name].take(first).to_pylist() for name in ("task", "question", "options", "answer")), strict=True)
    return [((task, name), f"{options} options and answer {answer}") for task, name, options, answer in rows]
