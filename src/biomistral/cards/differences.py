"""What became of a model's answers by what was done to it: its accuracy minus that of the models it was made from."""

from collections.abc import Sequence
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.compare import Difference, corrected, paired, scopes, unlike
from biomistral.reporting.results import Results, Run


def tables(run: Run, parents: Sequence[Results]) -> list[dict[str, Any]]:
    """For each parent that answered the same questions under the same protocol, a row for all questions and for each group,
    language and task; ``p_holm`` is corrected for the number of these parents, which ``compared`` says."""
    found = [other for results in parents for other in results.runs.values() if other.board == run.board]
    by_scope = [corrected([paired(run, other, *scope) for other in found]) for scope in scopes(run)]
    return [{"name": other.model.name, "key": other.model.key, "compared": len(found),
             "rows": [{"name": _name(own[place]), "difference": own[place]} for own in by_scope]}
            for place, other in enumerate(found)]


def check(runs: Sequence[Run], parents: Sequence[Results]) -> None:
    """
    Raises:
        UserError: results of a parent were given that no table of the model itself can be compared with.
    """
    for results in parents:
        boards = {other.board for other in results.runs.values()}
        if not any(run.board in boards for run in runs):
            why = unlike(runs[0], results.runs) if runs else "there are no results of the model itself"
            raise UserError(f"{results.artifact.path}: nothing on this card compares with these results: {why}")


def _name(difference: Difference) -> str:
    if difference.kind == "overall":
        return "all questions"
    return difference.scope if difference.kind == "task" else f"{difference.kind}: {difference.scope}"
