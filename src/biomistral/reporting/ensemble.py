"""Several answers as one, from the records alone: of several models, of several permutations of the options, or of both.

Option probabilities are added up and the highest sum answers; or, as the original's scripts do, those that the letters had
before they were renormalised (``mass``), so that a model which followed the prompt counts for more; or each answer is a vote.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from biomistral.errors import UserError
from biomistral.records import LETTERS, read_rows
from biomistral.reporting.results import read_results
from biomistral.scoring.permutations import published_letter, published_probabilities
from biomistral.scoring.tally import Row, identity, score, split_by

By = Literal["probability", "mass", "vote"]
_Key = tuple[str, tuple[str, str], int, int]
"""Protocol, language and id of the question, shot set, permutation."""
_SAME = ("answer", "options", "task", "prompt_hash")


def ensemble(folders: Sequence[Path], permutations: bool = False, by: By = "probability") -> dict[str, Any]:
    """Scores of the models together and of each alone, by protocol: those that all folders have; with ``permutations`` each
    question's permutations answer together too (self-consistency), of one model if only one is given.

    Raises:
        UserError: nothing to put together, a folder cannot be read, or they have no protocol with the same questions, put alike.
    """
    if len(folders) < (1 if permutations else 2):
        raise UserError(f"an ensemble takes two results folders or more, {len(folders)} given; of one model the permutations can "
                        "answer together (--permutations)")
    names = [read_results(folder).model.name for folder in folders]
    answers = [_by_key(folder, by) for folder in folders]
    keys = _shared(answers, folders, by)
    if permutations and not any(number for _, _, _, number in keys):
        raise UserError(f"{folders[0]}: its questions were asked in one order of the options; evaluate with "
                        "--permutations 2 or more")
    together = [_joined(rows, by) for rows in _gathered(answers, keys, permutations)]
    members = [[found[key] for key in keys] for found in answers]
    return {protocol: {"ensemble": _scores(rows), "members": {
        f"{name}" if names.count(name) == 1 else f"{name} ({folder})": _scores(split_by(own, "protocol")[protocol])
        for name, folder, own in zip(names, folders, members, strict=True)}} for protocol, rows in
        split_by(together, "protocol").items()}


def _by_key(folder: Path, by: By) -> dict[_Key, Row]:
    """The answers of a folder; those in words have no probabilities, but a vote."""
    return {(row["protocol"], identity(row), row["shot_set"], row.get("permutation") or 0): row
            for row in read_rows(folder / "answers.parquet") if by == "vote" or row["probabilities"] is not None}


def _shared(answers: Sequence[dict[_Key, Row]], folders: Sequence[Path], by: By) -> list[_Key]:
    """What every model was asked, in the order of the first; a protocol whose questions are not the same in all is refused."""
    shared = set.intersection(*({protocol for protocol, *_ in found} for found in answers))
    if not shared:
        what = "protocol" if by == "vote" else "protocol with probabilities"
        raise UserError(f"{', '.join(map(str, folders))}: no {what} in common; evaluate all with one")
    first, *others = ({key: row for key, row in found.items() if key[0] in shared} for found in answers)
    for folder, other in zip(folders[1:], others, strict=True):
        odd = first.keys() ^ other.keys() or {key for key, row in first.items()
                                              if any(row[name] != other[key][name] for name in _SAME)}
        if odd:
            protocol, (_, question), *_ = min(odd)
            raise UserError(f"{folders[0]} and {folder}: question {question!r} was not asked alike under {protocol}; evaluate "
                            "all models on the same benchmark, limit, permutations and seed")
    return list(first)


def _gathered(answers: Sequence[dict[_Key, Row]], keys: Sequence[_Key], permutations: bool) -> Iterator[list[Row]]:
    """The rows that answer together: one a model, and with ``permutations`` one a model and permutation."""
    groups: dict[_Key, list[_Key]] = {}
    for key in keys:
        groups.setdefault((*key[:3], 0) if permutations else key, []).append(key)
    yield from ([found[key] for found in answers for key in group] for group in groups.values())


def _joined(rows: Sequence[Row], by: By) -> Row:
    """One answer, in the published letters where orders differ. Of equal sums the first letter answers; of as many votes the
    letter of the higher sum, of those without probabilities the first. None that can be read is none."""
    together = [_published(row) for row in rows]
    first = together[0]
    sums = np.zeros(first["options"])
    if all(row["probabilities"] is not None for row in together):
        masses = [row["letter_mass"] if by == "mass" and row["letter_mass"] is not None else 1.0 for row in together]
        sums = np.average([row["probabilities"] for row in together], axis=0, weights=masses)
    votes = Counter(row["chosen"] for row in together if by == "vote" and row["chosen"])
    letters = LETTERS[:first["options"]] if votes or by != "vote" else ""
    chosen = max(letters, key=lambda letter: (votes[letter], sums[LETTERS.index(letter)]), default="")
    return {**first, "model": "ensemble", "chosen": chosen, "right": chosen == first["answer"], "letter_mass": None,
            "open_right": None, "said": None, "truth_mass": None, "probabilities": sums.tolist()}


def _published(row: Row) -> Row:
    """A row as if its options stood in their published order."""
    if row.get("order") is None:
        return row
    return {**row, "answer": published_letter(row, row["answer"]), "chosen": published_letter(row, row["chosen"]),
            "probabilities": row["probabilities"] and published_probabilities(row), "permutation": 0, "order": None}


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    tasks = {task: score(found) for task, found in split_by(rows, "task").items()}
    return {"tasks": tasks, "overall": score(rows), "average": float(np.mean([found["accuracy"] for found in tasks.values()]))}


def render(found: dict[str, Any]) -> str:
    """A line a model, the ensemble last: average of the tasks, and accuracy over all questions with its 95 % interval."""
    lines = []
    for protocol, both in found.items():
        lines.append(f"{protocol}: average of {len(both['ensemble']['tasks'])} tasks, all questions")
        for name, scores in (*both["members"].items(), ("ensemble", both["ensemble"])):
            overall = scores["overall"]
            low, high = overall["interval"]
            lines.append(f"  {name[:40]:40} {100 * scores['average']:6.1f} {100 * overall['accuracy']:6.1f} "
                         f"[{100 * low:.1f}, {100 * high:.1f}]")
    return "\n".join(lines)
