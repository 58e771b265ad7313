"""Scores by language as a table for the terminal: a row a task, a column a language, one table a model and protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

Scores = Mapping[str, Mapping[str, Any]]
"""``languages`` of a protocol in ``results.json``, by language."""


def rows(protocol: str, result: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy in percent with, beside English, the gap to it on the same questions and its 95 % interval, else with its own
    interval; below, what explains it. Nothing where one language was asked."""
    languages: Scores = result["protocols"][protocol].get("languages") or {}
    if len(languages) < 2:
        return []
    tasks = dict.fromkeys(task for scores in languages.values() for task in scores["tasks"])
    found = [[f"{protocol}, {result['model']['name']}", *languages]]
    for task in tasks:
        found.append([task, *(_cell(scores["tasks"].get(task), gap_of(scores, task)) for scores in languages.values())])
    found.append(["average of tasks", *(f"{100 * scores['average']:.1f}" for scores in languages.values())])
    found.append(["all questions", *(_cell(scores["overall"], gap_of(scores)) for scores in languages.values())])
    return [*found, *_about(languages, protocol, (result.get("fertility") or {}).get("languages", {}))]


def gap_of(scores: Mapping[str, Any], task: str = "") -> Mapping[str, Any] | None:
    """The gap to English in a task (or all questions), if there were pairs."""
    gaps = scores["gap"]
    gap: Mapping[str, Any] | None = gaps and (gaps["tasks"].get(task) if task else gaps["overall"])
    return gap if gap and gap["n"] else None


def _cell(score: Mapping[str, Any] | None, gap: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    accuracy = f"{100 * score['accuracy']:.1f}"
    if gap is None:
        low, high = score["interval"]
        return f"{accuracy} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{accuracy} ({100 * gap['difference']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}])"


def _about(languages: Scores, protocol: str, fertility: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Questions, the test of the gap, calibration, tokens."""
    lines = [["questions", *(str(scores["overall"]["n"]) for scores in languages.values())]]
    gaps = [scores["gap"] and scores["gap"]["overall"] for scores in languages.values()]
    if any(gaps):
        lines += [["without an English twin", *(str(gap["without_twin"]) if gap else "" for gap in gaps)],
                  ["p of the gap (McNemar, Holm)", *(_p(gap) for gap in gaps)]]
    errors = [scores["calibration"] and scores["calibration"]["ece"] for scores in languages.values()]
    if any(error is not None for error in errors):
        lines.append(["ECE, points", *("-" if error is None else f"{error:.1f}" for error in errors)])
    return lines + _tokens([fertility.get(language) for language in languages], protocol)


def _p(gap: Mapping[str, Any] | None) -> str:
    return "" if not gap or gap["p_holm"] is None else f"{gap['p_holm']:.2g}"


def _tokens(found: Sequence[Mapping[str, Any] | None], protocol: str) -> list[list[str]]:
    """Tokens a word (of scripts without spaces: a character, said so), beside those of the same questions in English."""
    if not any(found):
        return []
    near = [one["near_limit"].get(protocol) if one else None for one in found]
    lines = [["tokens a word", *(fertility_words(one) for one in found)],
             ["tokens, English = 1", *("-" if not one or one["premium"] is None else f"{one['premium']:.2f}" for one in found)]]
    if any(share is not None for share in near):
        lines.append(["prompts near the context's end, %", *("-" if share is None else f"{100 * share:.1f}" for share in near)])
    return lines


def fertility_words(one: Mapping[str, Any] | None) -> str:
    """``1.42``, of scripts without spaces ``1.10 a character``."""
    if not one or one["per_unit"] is None:
        return "-"
    return f"{one['per_unit']:.2f}" + (" a character" if one["unit"] == "character" else "")
