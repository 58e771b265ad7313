"""What people changed on the review page, brought in with their mark."""

import json
from collections.abc import Sequence

from pydantic import Field, ValidationError

from biomistral.artifact import Workspace
from biomistral.errors import UserError
from biomistral.progress import log
from biomistral.recipe import Settings, canonical_hash
from biomistral.translation.checks.every import find_faults
from biomistral.translation.checks.structure import duplicates, missing
from biomistral.translation.fields import Fields
from biomistral.translation.rounds import Attempt, Job, empties
from biomistral.translation.settings import TranslateSettings


class Edit(Settings):
    """A line of ``edits.jsonl``. ``source``: `source_mark` of the question as the editor saw it; "": not said."""

    id: str = Field(min_length=1)
    task: str
    language: str
    fields: dict[str, str]
    source: str = ""


def source_mark(fields: Fields) -> str:
    """Short hash of what was translated, by which an edit of another text is told."""
    return canonical_hash(fields)[:16]


def read_edits(work: Workspace) -> list[Edit]:
    """
    Raises:
        UserError: a line is not an edit.
    """
    path = work.locate(work.settings.edits)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Edit.model_validate(json.loads(line)))
            except ValidationError as error:
                problem = error.errors()[0]
                raise UserError(f"{path}:{number}: {'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}") from error
            except ValueError as error:
                raise UserError(f"{path}:{number}: not an edit, a JSON object as the review page saves them ({error})") from error
    return found


def apply_edits(jobs: Sequence[Job], edits: Sequence[Edit], settings: TranslateSettings) -> int:
    """Give each job that was edited its last edit; what the checks say of it is recorded, and refuses nothing.

    Raises:
        UserError: an edit is of another text or language, or leaves a question broken: an option missing, empty or there twice.
    """
    by_id = {(job.question.task, job.question.id): job for job in jobs}
    last = {(edit.task, edit.id): edit for edit in edits}
    known = last.keys() & by_id.keys()
    for key in known:
        by_id[key].take(_attempt(by_id[key], last[key], settings))
    if len(known) < len(last):
        log.warning("%d of %d edits are of questions that are not translated here", len(last) - len(known), len(last))
    return len(known)


def _attempt(job: Job, edit: Edit, settings: TranslateSettings) -> Attempt:
    where = f"edit of question {edit.id!r}"
    if edit.language != settings.to:
        raise UserError(f"{where}: is in '{edit.language}', and --to is '{settings.to}'")
    if edit.source and edit.source != source_mark(job.source):
        raise UserError(f"{where}: the question has changed since it was edited; edit it again on a new review page")
    fields = {name: text.strip() for name, text in edit.fields.items()}
    faults = [*missing(job.source, fields), *empties(fields)] or [*duplicates(job.source, fields)]
    if faults:
        raise UserError(f"{where}: {faults[0].field} {faults[0].detail}; an edited question keeps its options, none empty and "
                        "none twice")
    ordered = {name: fields[name] for name in job.source}
    reasons = find_faults(job.source, ordered, settings.to, None, job.question.language)
    about = {"editor": settings.editor, "from": job.question.language, "reasons": [reason._asdict() for reason in reasons]}
    return Attempt(ordered, None, (), about)
