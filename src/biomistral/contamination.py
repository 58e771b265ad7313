"""Scores with and without the questions that stand in a corpus, from recorded answers: ``biomistral contamination``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomistral.artifact import Artifact, input_key, open_artifact
from biomistral.corpus.standing import standing
from biomistral.errors import UserError
from biomistral.records import Question, read_rows
from biomistral.reporting.results import read_results
from biomistral.scoring.questions import read_benchmark
from biomistral.scoring.tally import Row, score, split_by


def contamination(results: Path, corpus: Path, benchmark: Path | None = None) -> dict[str, Any]:
    """Which of the questions that a model answered stand in the corpus, and its scores with and without them.

    The questions' texts come from the benchmark that was asked: where the results say it lies, or ``benchmark``. A question
    stands there if it does in any language it was asked in: who read it in one has read it.

    Raises:
        UserError: a folder is not what it should be, or the benchmark is not the one that was asked.
    """
    found = read_results(results)
    rows = list(read_rows(results / "answers.parquet"))
    asked = {row["question"] for row in rows}
    questions = [question for question in _questions(found.artifact, benchmark) if question.id in asked]
    where = standing(corpus, questions)
    parts = {"all": asked, "without those in the corpus": asked - where.kept.keys(), "those in the corpus": where.kept.keys(),
             "those taken out of it": where.removed.keys()}
    return {"model": found.model.name, "results": found.artifact.key, "corpus": open_artifact(corpus).key,
            "questions": len(asked), "too_short": len(asked - where.searched), "standing": where.kept, "removed": where.removed,
            "protocols": {protocol: {name: score(own) for name, ids in parts.items() if (own := _of(answers, ids))}
                          for protocol, answers in split_by(rows, "protocol").items()}}


def _of(rows: Sequence[Row], ids: Any) -> list[Row]:
    return [row for row in rows if row["question"] in ids]


def _questions(results: Artifact, benchmark: Path | None) -> list[Question]:
    """
    Raises:
        UserError: the benchmark is gone, or is another one now.
    """
    settings = results.manifest["settings"]
    entries = {entry["name"]: entry for entry in results.manifest["inputs"]}
    first = _read(entries[settings["benchmark"]], benchmark, results)
    return first + [question for name in settings.get("translations", ()) for question in _read(entries[name], None, results)]


def _read(entry: dict[str, Any], benchmark: Path | None, results: Artifact) -> list[Question]:
    place = benchmark or Path(entry["path"])
    if not place.exists() or input_key(place) != entry["key"]:
        what = "is not the benchmark that was asked" if place.exists() else "the benchmark that was asked is gone"
        raise UserError(f"{place}: {what} (key {entry['key'][:12]}, {results.path}); name it with --suite")
    return read_benchmark(place)


def render(found: dict[str, Any]) -> str:
    """What stands where, and a table a protocol."""
    lines = [f"{found['model']}: {len(found['standing'])} of {found['questions']:,} questions stand in the corpus, "
             f"{len(found['removed'])} were taken out of it when it was built; {found['too_short']} are too short to look for"]
    for protocol, scores in found["protocols"].items():
        lines += [protocol, *(_line(name, one) for name, one in scores.items())]
    return "\n".join(lines)


def _line(name: str, one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"  {name:28} {one['n']:7,} {100 * one['accuracy']:6.1f} [{100 * low:.1f}, {100 * high:.1f}]"
