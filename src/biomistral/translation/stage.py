"""The ``translate`` stage: a benchmark in, one in another language out, and what is not sound beside it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomistral.artifact import Workspace, input_key, stage_key
from biomistral.endpoint.account import Account, BudgetError
from biomistral.errors import UserError
from biomistral.files import cache_folder, files_under, write_json
from biomistral.progress import log
from biomistral.records import Question, write_questions
from biomistral.scoring.questions import choose_questions, read_benchmark
from biomistral.translation.desk import Desk
from biomistral.translation.edits import apply_edits, read_edits
from biomistral.translation.engine import Engine
from biomistral.translation.engines.build import Means, engine_of
from biomistral.translation.fields import with_fields
from biomistral.translation.memory import Memory
from biomistral.translation.review import write_review
from biomistral.translation.rounds import Job, Rounds
from biomistral.translation.settings import TranslateSettings

_AT_ONCE, _WAVES = 500, 4
"""Questions that are finished before the next ones are begun, where a budget may end between: so many, and as many as are in
flight at once so often, since a server idles while the last of them are waited for."""

_SECOND = "/second"
"""Behind the run's name in the memory: answers that the second engine's server was paid for."""


def translate(work: Workspace) -> None:
    """Translate what the settings choose.

    Raises:
        UserError: there is nothing to translate, an engine cannot be used or has not this direction, or the budget is reached.
    """
    for leftover in files_under(work.path):
        leftover.unlink()
    settings: TranslateSettings = work.settings
    jobs = [Job(question) for question in chosen(work)]
    edited = apply_edits(jobs, read_edits(work), settings) if settings.edits else 0
    means = _means(work)
    engines = [engine_of(one, each) for one, each in zip((settings, settings.second), means, strict=True) if one.engine]
    forward, back = _directions(engines, jobs[0].question.language, settings)
    if len(engines) > 1:
        engines[1].purse = _SECOND
    memory = Memory((Path(work.machine.cache) if work.machine.cache else cache_folder()) / "translations.sqlite")
    asking = work.machine.requests
    capped = asking.max_cost is not None
    at_once = max(_AT_ONCE, _WAVES * asking.concurrency) if capped else 0
    name = _run_name(work)
    rounds = Rounds(Desk(memory, name), forward, back, settings.to, settings.attempts, at_once, capped and not settings.partial)
    try:
        for one, purse in zip(means, ("", _SECOND), strict=True):
            one.account.count(*memory.tokens(name + purse))
        done = _run(rounds, jobs, means, settings)
    finally:
        memory.close()
    _write(work, done, len(jobs))
    work.facts["translation"] = {
        "from": jobs[0].question.language, "to": settings.to, "engines": [engine.identity for engine in engines],
        "back_translation": back.identity if back else None, "rounds": rounds.account, "edited": edited,
        "pieces": {"made": rounds.desk.made, "remembered": rounds.desk.remembered},
        "prompt_tokens": sum(one.account.prompt_tokens for one in means),
        "completion_tokens": sum(one.account.completion_tokens for one in means), "cost": _cost(means),
        "partial": {"finished": len(done), "of": len(jobs)} if len(done) < len(jobs) else None, **_passed(done)}


def _run_name(work: Workspace) -> str:
    """By what the memory knows what was paid for this artifact: its key, partial or not."""
    keys = {name: input_key(place) for name, place in work.places.items()}
    return stage_key(work.settings.model_copy(update={"partial": False}), keys)


def _means(work: Workspace) -> tuple[Means, Means]:
    """Of the first and of the second engine: servers with keys and prices of their own, under one cap. Two models of one server
    have its key."""
    first = work.machine.requests
    second = work.machine.second.of(first)
    if work.settings.second.url == work.settings.url:
        second = second.model_copy(update={"key_env": first.key_env})
    account = Account.of(first)
    return Means(work, first, account), Means(work, second, account.beside(second))


def _run(rounds: Rounds, jobs: Sequence[Job], means: Sequence[Means], settings: TranslateSettings) -> Sequence[Job]:
    """All jobs, or those that were finished when the budget was reached, if they are wanted.

    Raises:
        BudgetError: they are not wanted, or there are none.
    """
    try:
        rounds.run(jobs)
    except BudgetError as error:
        done = [job for job in jobs if job.finished]
        if not done and not rounds.desk.kept:  # nothing is begun: there is nothing to go on with
            raise
        state = (f"{len(done):,} of {len(jobs):,} questions are finished, for {_cost(means) or 0:.4g}, and {rounds.desk.kept:,} "
                 "answers are remembered")
        if not settings.partial or not done:
            how = "" if settings.partial else "; with --partial the finished ones are written"
            raise BudgetError(f"{error}; {state}: with a higher --max-cost the same command goes on{how}") from error
        log.warning("%s; %s: a partial benchmark. For all of them run again without --partial, with a higher --max-cost and "
                    "another --out: no answer is paid for twice", error, state)
        return done
    return jobs


def _cost(means: Sequence[Means]) -> float | None:
    """What servers were paid, if prices are known."""
    return sum(one.account.spent for one in means) if any(one.account.priced for one in means) else None


def chosen(work: Workspace) -> list[Question]:
    """The questions to translate, in the benchmark's order of splits and tasks.

    Raises:
        UserError: there are none, they are in several languages, or in the one they are to be translated into.
    """
    settings: TranslateSettings = work.settings
    place = work.locate(settings.benchmark)
    questions = read_benchmark(place)
    found = [question for split in settings.splits
             for task in choose_questions(questions, split, settings.tasks, settings.limit, settings.seed).values()
             for question in task]
    languages = list(dict.fromkeys(question.language for question in found))
    if len(languages) > 1:
        raise UserError(f"{place}: its questions are in {' and '.join(languages)}; translate those of one language at a time "
                        "(--tasks, or benchmarks of their own)")
    if languages == [settings.to]:
        raise UserError(f"{place}: its questions are in '{settings.to}' already; choose another --to")
    return found


def _directions(engines: Sequence[Engine], source: str, settings: TranslateSettings) -> tuple[list[Engine], Engine | None]:
    """Who translates, and who translates back.

    Raises:
        UserError: the first engine does not translate in this direction.
    """
    if not engines[0].can(source, settings.to):
        raise UserError(f"engine {settings.engine}: does not translate from '{source}' to '{settings.to}'; choose another engine "
                        "or model")
    forward = [engine for engine in engines if engine.can(source, settings.to)]
    back = next((engine for engine in engines if not engine.by_item and engine.can(settings.to, source)), None)
    if back is None and settings.back_translation:
        log.info("nobody here translates from %s back to %s: translations are checked without that (--second-engine)",
                 settings.to, source)
    return forward, back if settings.back_translation else None


def _write(work: Workspace, jobs: Sequence[Job], wanted: int) -> None:
    settings: TranslateSettings = work.settings
    open_jobs = [job for job in jobs if not job.sound]
    questions = [with_fields(job.question, job.best.fields, settings.to, job.best.about) for job in jobs
                 if job.best is not None and job.sound]
    write_questions(work.path / "questions.parquet", questions)
    write_review(work.path, open_jobs, settings.to)
    partial = {"partial": {"finished": len(jobs), "of": wanted}} if len(jobs) < wanted else {}
    write_json(work.path / "benchmark.json", {**_benchmark(work, questions), **partial})
    work.counts |= {"questions": len(questions), "needs_review": len(open_jobs)}
    if open_jobs:
        log.warning("%d of %d questions are not sound and stay out: review.html shows them, with the reasons", len(open_jobs),
                    len(jobs))


def _benchmark(work: Workspace, questions: Sequence[Question]) -> dict[str, Any]:
    """``benchmark.json`` of the translation: the source's, with the questions that are here."""
    place = work.locate(work.settings.benchmark) / "benchmark.json"
    about = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    tally = Counter((question.task, question.split) for question in questions)
    tasks: dict[str, dict[str, Any]] = {}
    for task, split in tally:
        known = about.get("tasks", {}).get(task, {})
        tasks.setdefault(task, {"licence": known.get("licence", "not stated"), "source": known.get("source", "")})
        tasks[task][split] = tally[task, split]
        work.counts[task] = {**work.counts.get(task, {}), split: tally[task, split]}
    for entry in tasks.values():
        work.licences[entry["licence"]] = work.licences.get(entry["licence"], 0) + 1
    return {"name": about.get("name", "translated"), "language": work.settings.to, "tasks": tasks}


def _passed(jobs: Sequence[Job]) -> dict[str, Any]:
    """Pass rates by task, and how often each reason sent a question to review."""
    total, sound = Counter(job.question.task for job in jobs), Counter(job.question.task for job in jobs if job.sound)
    reasons = Counter(check for job in jobs if job.best is not None
                      for check in {reason.check for reason in job.best.reasons})
    return {"passed": {task: {"sound": sound[task], "of": total[task]} for task in total}, "reasons": dict(reasons.most_common())}
