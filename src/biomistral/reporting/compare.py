"""Paired comparisons: two models on the same questions, under the same protocol, or not at all."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.reporting.apart import alike, gap_rows
from biomistral.reporting.pairwise import SIGNIFICANT
from biomistral.reporting.results import Run, read_results
from biomistral.seeds import seed
from biomistral.statistics import detectable_difference, differences, holm, mcnemar, paired_difference

_BOARD_PARTS = ("benchmark", "benchmark's content", "split", "limit", "protocol", "protocol's definition",
                "number of permutations", "questions", "translations")


@dataclass(frozen=True)
class Difference:
    """A model's accuracy minus the baseline's over the same ``n`` questions; fractions.

    ``gained`` counts the questions that the model got right more often than the baseline, ``lost`` the other way round:
    with one shot set these are McNemar's discordant pairs, with several its exact form is the sign test over questions.
    Questions that several tasks share count once there, and as one in the intervals.
    ``detectable`` is the smallest true difference that so many questions show in 80 of 100 cases (None of a single one, or where
    no answer differs).
    """

    kind: str
    scope: str
    n: int
    accuracy: float
    baseline_accuracy: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    p_holm: float
    detectable: float | None

    @property
    def direction(self) -> int:
        """1 or -1 when the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def significant(self) -> bool:
        return self.p_holm < SIGNIFICANT


def paired(run: Run, baseline: Run, kind: str = "overall", scope: str = "overall", root: int = 0) -> Difference:
    """Compare two runs of one board over all questions, or those of one task or group."""
    assert run.board == baseline.board, "only runs of one board are compared"
    mine, theirs = run.scope(kind, scope), baseline.scope(kind, scope)
    clusters = run.clusters[run.places(kind, scope)]
    difference, low, high = paired_difference(mine, theirs, seed(root, "paired", run.protocol, kind, scope), clusters=clusters)
    gained, lost = discordant(run, baseline, kind, scope)
    p = mcnemar(gained, lost)
    detectable = detectable_difference(mine, theirs, clusters=clusters) if gained or lost else math.inf
    return Difference(kind, scope, len(mine), float(mine.mean()), float(theirs.mean()), difference, low, high, gained, lost,
                      p, p, detectable if math.isfinite(detectable) else None)


def discordant(run: Run, other: Run, kind: str = "overall", scope: str = "overall") -> tuple[int, int]:
    """Questions that the first answered right more often than the second, and the other way round; those that several tasks share
    count once."""
    sums, _ = differences(run.scope(kind, scope), other.scope(kind, scope), run.clusters[run.places(kind, scope)])
    return int((sums > 0).sum()), int((sums < 0).sum())


def against(baseline: Run, runs: Sequence[Run], kind: str, scope: str, root: int = 0) -> dict[str, Difference]:
    """Every other run against the baseline, by model name; ``p_holm`` is corrected for their number."""
    others = [run for run in runs if run is not baseline]
    found = corrected([paired(run, baseline, kind, scope, root) for run in others])
    return {run.model.name: one for run, one in zip(others, found, strict=True)}


def boards(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs sorted into tables whose rows may be compared, in the order in which the tables first appear."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(run.board, []).append(run)
    return list(found.values())


def compare(first: Path, others: Sequence[Path]) -> list[dict[str, Any]]:
    """Each of the other results folders minus the first, per shared protocol: overall, each group and each task. ``p_holm`` is
    corrected for the number of models that are compared over the same questions. A folder of the same model with translations of
    the first's English questions is compared with these.

    Raises:
        UserError: a folder cannot be read, or has no protocol on the same questions in common with the first.
    """
    old, new = read_results(first), [read_results(folder) for folder in others]
    rows = []
    for before in old.runs.values():
        found = [run for result in new for run in result.runs.values() if run.board == before.board]
        differences = {scope: corrected([paired(after, before, *scope) for after in found]) for scope in scopes(before)}
        rows += [{"benchmark": before.benchmark.name, "protocol": before.protocol, "compared": len(found),
                  "definition_hash": before.summary.definition_hash, "baseline": before.model.name, "model": after.model.name,
                  "folder": str(after.folder), **asdict(own[place])}
                 for place, after in enumerate(found) for own in differences.values()]
        rows += gap_rows(before, [run for result in new for run in result.runs.values()])
    compared = {row["folder"] for row in rows}
    for result in new:
        if str(result.artifact.path) not in compared:
            raise UserError(f"{first} and {result.artifact.path}: nothing to compare: "
                            f"{_why(next(iter(old.runs.values())), result.runs)}")
    return rows


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With ``p_holm`` for so many comparisons."""
    return [replace(one, p_holm=p) for one, p in zip(differences, holm([one.p for one in differences]), strict=True)]


def scopes(run: Run) -> list[tuple[str, str]]:
    """What a run can be compared over: all questions, then each group, each language and each task where there are several."""
    tasks = list(run.summary.tasks)
    return [("overall", "overall"), *(("group", name) for name in run.group_names),
            *(("language", name) for name in run.summary.languages if len(run.summary.languages) > 1),
            *(("task", name) for name in tasks if len(tasks) > 1)]


def _why(run: Run, others: dict[str, Run]) -> str:
    """Why two results folders are not compared, the first one's run given."""
    other = others.get(run.protocol) or next(iter(others.values()))
    there, here = (one.questionnaire.languages.names for one in (other, run))
    if alike(run, other) and "en" in there and "en" not in here:
        return "languages are compared with English; name the folder with the English questions first"
    return unlike(run, others)


def unlike(run: Run, others: dict[str, Run]) -> str:
    """The first thing in which a run and those of another folder, none of its table, differ."""
    other = others.get(run.protocol) or next(iter(others.values()))
    for part, mine, theirs in zip(_BOARD_PARTS, run.board, other.board, strict=True):
        if mine != theirs:
            return f"the {part} differs ({_short(mine)} and {_short(theirs)}); evaluate both the same way"
    raise AssertionError("equal boards are shared")


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 32 else str(value)


def render(rows: Sequence[dict[str, Any]]) -> str:
    """`compare`'s rows as aligned text; differences in points, other model minus first. Of several models, better and worse are
    only those that Holm's correction leaves."""
    lines, last = [], None
    for row in rows:
        several = row["compared"] > 1
        if (row["protocol"], row["folder"], row["model"]) != last:
            last = row["protocol"], row["folder"], row["model"]
            lines += [f"{row['benchmark']}, {row['protocol']}: {row['model']} minus {row['baseline']}, same questions"
                      f"{_alone(row)}",
                      f"  {'':24} {'n':>6} {'first':>7} {'second':>7} {'difference':>11}  {'95 % interval':17} {'p (exact)':>9} "
                      f"{'p (Holm)  ' if several else ''}{'detectable':>10}"]
        interval = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        told = not row["low"] <= 0 <= row["high"] and (not several or row["p_holm"] < SIGNIFICANT)
        mark = ("  better" if row["low"] > 0 else "  worse") if told else ""
        accuracies = f"{100 * row['baseline_accuracy']:6.1f}% {100 * row['accuracy']:6.1f}%"
        corrected = f"{row['p_holm']:8.2g}  " if several else ""
        lines.append(f"  {row['scope'][:24]:24} {row['n']:6,} {accuracies} {100 * row['difference']:+11.1f}  {interval:17} "
                     f"{row['p']:9.2g} {corrected}{_points(row['detectable']):>10}{mark}")
    return "\n".join(lines)


def _alone(row: dict[str, Any]) -> str:
    number = row.get("without_twin", 0)
    return f" ({number:,} more have no English one)" if number else ""


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:.1f}"
