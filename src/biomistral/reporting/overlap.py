"""What ``biomistral contamination --out`` wrote, for the page: scores with and without questions that stand in a corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biomistral.errors import UserError
from biomistral.reporting.results import Results
from biomistral.reporting.results_file import Score

PARTS = {"all": "All questions", "without those in the corpus": "Without those in the corpus",
         "those in the corpus": "Those in the corpus", "those taken out of it": "Those taken out of it"}


class Overlap(BaseModel):
    """The file: of ``questions`` asked those ``standing`` in the corpus and those ``removed`` from it, with their documents."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    results: str
    corpus: str
    questions: int = Field(gt=0)
    too_short: int
    standing: dict[str, list[str]]
    removed: dict[str, list[str]]
    protocols: dict[str, dict[str, Score]]


def overlaps(files: Sequence[Path], results: Sequence[Results]) -> list[dict[str, Any]]:
    """One entry a file, in the order of the results.

    Raises:
        UserError: a file is none of that command's, is about none of the results, or two are about the same results and corpus.
    """
    models = {result.artifact.key: result.model.name for result in results}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        one = _read(file)
        if one.results not in models:
            raise UserError(f"{file}: is about results {one.results[:12]}, which are not among those given; name their folder "
                            "too, or ask 'biomistral contamination' again")
        if (one.results, one.corpus) in found:
            raise UserError(f"{file}: a second account of {models[one.results]!r} and corpus {one.corpus[:12]}; leave one out")
        found[one.results, one.corpus] = _view(one, models[one.results])
    order = list(models)
    return [found[pair] for pair in sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))]


def _view(one: Overlap, model: str) -> dict[str, Any]:
    rows = [{"protocol": protocol, "scores": {name: scores[name].model_dump() if name in scores else None for name in PARTS}}
            for protocol, scores in one.protocols.items()]
    return {"model": model, "corpus": one.corpus, "questions": one.questions, "too_short": one.too_short,
            "standing": len(one.standing), "removed": len(one.removed), "parts": PARTS, "rows": rows}


def _read(file: Path) -> Overlap:
    try:
        return Overlap.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: no readable file; 'biomistral contamination --out' writes one") from error
    except ValidationError as error:
        what = error.errors()[0]["msg"].lower()
        raise UserError(f"{file}: not what 'biomistral contamination --out' writes ({what})") from error
