"""Questions whose translation is not sound, for people: a table for programs, and a page on which they can be mended."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from biomistral.files import write_text
from biomistral.languages import language
from biomistral.records import write_table
from biomistral.translation.edits import source_mark
from biomistral.translation.rounds import Job

_FIELD = pa.struct([("field", pa.string()), ("source", pa.string()), ("translation", pa.string()), ("back", pa.string())])
_REASON = pa.struct([("check", pa.string()), ("field", pa.string()), ("detail", pa.string())])
REVIEW_SCHEMA = pa.schema([
    ("id", pa.string()), ("task", pa.string()), ("split", pa.string()), ("language", pa.string()), ("answer", pa.string()),
    ("fields", pa.list_(_FIELD)), ("reasons", pa.list_(_REASON)), ("translator", pa.string()), ("attempts", pa.int32()),
    ("source_mark", pa.string()),
])
"""One row a question that is not sound: its best translation (the one with the fewest reasons), text by text. ``translation`` is
null where there is none, ``back`` where nobody translated back; ``translator`` is JSON; ``source_mark`` goes into edits."""


def write_review(folder: Path, jobs: Sequence[Job], target: str) -> None:
    """``needs_review.parquet`` and ``review.html``; without such questions the one is empty and the other says so."""
    rows = [_row(job, target) for job in jobs]
    write_table(folder / "needs_review.parquet", rows, REVIEW_SCHEMA)
    environment = Environment(loader=PackageLoader("biomistral.translation", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("review.html.j2").render(rows=rows, target=target, language=language(target).name)
    write_text(folder / "review.html", page.encode("utf-8", "replace").decode("utf-8"))


def _row(job: Job, target: str) -> dict[str, Any]:
    best, question = job.best, job.question
    assert best is not None
    fields = [{"field": name, "source": text, "translation": best.fields.get(name), "back": (best.back or {}).get(name)}
              for name, text in job.source.items()]
    return {"id": question.id, "task": question.task, "split": question.split, "language": target, "answer": question.answer,
            "fields": fields, "reasons": [reason._asdict() for reason in best.reasons],
            "translator": json.dumps(best.about, ensure_ascii=False), "attempts": job.tries,
            "source_mark": source_mark(job.source)}
