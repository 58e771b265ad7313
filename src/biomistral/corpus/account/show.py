"""``corpus show``: the account of a corpus as lines for a terminal, the same numbers as its statistics page."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from biomistral.artifact import open_artifact
from biomistral.corpus.account.numbers import read_statistics, refused_of
from biomistral.corpus.account.page import number, share, shown
from biomistral.errors import UserError
from biomistral.recipe import nearest

_MOST = 12
_SPLITS = {"train": "to train on", "heldout": "held out"}


def account(folder: Path) -> dict[str, Any]:
    """What a corpus holds, as plain data: the manifest's counts and licences, and all of ``statistics.json``.

    Raises:
        UserError: the folder is not a finished corpus.
    """
    manifest = open_artifact(folder, "corpus").manifest
    found = read_statistics(folder, manifest["counts"])
    return {"folder": str(folder), "key": manifest["key"], "counts": manifest["counts"], "licences": manifest["licences"],
            **found}


def refused(folder: Path, reason: str, most: int | None = None) -> Iterator[dict[str, str]]:
    """``id, source, detail`` of the documents refused for a reason, in the order they were read; at most ``most``.

    Raises:
        UserError: the folder is not a finished corpus, or refused nothing for this reason; the message lists the reasons.
    """
    counts: dict[str, int] = open_artifact(folder, "corpus").manifest["counts"]["refused"]
    if reason not in counts:
        said = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing was refused"
        raise UserError(f"{folder}: no document was refused as {reason!r}{nearest(reason, counts)} (reasons: {said})")
    return islice(refused_of(folder / "refused.parquet", reason), most)


def render_refused(rows: Iterator[dict[str, str]]) -> str:
    """Refused documents as text, one line each."""
    return "\n".join(f"{shown(row['id'])}: {shown(row['detail'])}" for row in rows)


def render(data: dict[str, Any]) -> str:
    """The account as text."""
    kept, read, by = data["kept"], data["read"], data["by"]
    ratio = kept["tokens_per_word"]
    lines = [f"{data['folder']}: {kept['documents']:,} of {read['documents']:,} documents, {kept['words']:,} words, "
             f"{kept['tokens']:,} tokens{f' ({ratio} a word)' if ratio else ''}"]
    lines += [f"  DOES NOT ADD UP: {check['what']}: {check['expected']:,}, {check['found']:,}"
              for check in data["checks"] if not check["agrees"]]
    lines += _refused(data["refused"], read["documents"])
    for column, title in (("language", "languages"), ("licence", "licences"), ("source", "sources"), ("journal", "journals"),
                          ("article_type", "article types"), ("year", "years")):
        lines += _groups(title, by[column], column, kept["documents"])
    for column in ("words", "tokens"):
        lines += _lengths(column, by[column])
    return "\n".join([*lines, *_duplicates(data["duplicates"]), *_decontamination(data["decontamination"]),
                      *_packing(data["packing"])])


def _refused(rows: list[dict[str, Any]], read: int) -> list[str]:
    lines = ["", "refused"] if rows else []
    for row in rows:
        first = row["examples"][0]
        lines.append(f"  {row['reason']:24} {row['documents']:12,} {share(row['documents'], read):>8}  e.g. "
                     f"{shown(first['id'], 40)}{': ' + shown(first['detail'], 60) if first['detail'] else ''}")
    return lines


def _groups(title: str, rows: list[dict[str, Any]], column: str, whole: int) -> list[str]:
    if not any(row[column] for row in rows):
        return []
    shortened = rows[-_MOST:] if column == "year" else rows[:_MOST]
    lines = [f"  {shown(row[column], 23) or 'not stated':24} {row['documents']:12,} {share(row['documents'], whole):>8} "
             f"{row['tokens']:16,} tokens" for row in shortened if "others" not in row]
    hidden = sum(row.get("others", 1) for row in rows) - len(lines)
    return ["", title, *lines, *([f"  and {hidden:,} others"] if hidden else [])]


def _lengths(title: str, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    low, middle, high = (found["quantiles"][q] for q in ("5", "50", "95"))
    return ["", f"{title} a document: mean {found['mean']:,}, median {middle:,}, 5 to 95 % {low:,} to {high:,}, "
            f"most {found['largest']:,}"]


def _duplicates(found: dict[str, Any] | None) -> list[str]:
    rows = found["kinds"] if found else []
    lines = [f"  {row['kind']:24} {row['copies']:12,} in {row['clusters']:,} clusters" for row in rows]
    return ["", "copies", *lines] if lines else []


def _decontamination(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "not decontaminated: no benchmark was given"]
    rows = {"all": found, **found["tasks"]}
    lines = [f"  {shown(task, 23):24} {row['found']:6,} of {row['questions']:6,} questions in {row['documents']:,} documents, "
             f"{row['words_lost']:,} words lost" for task, row in rows.items()]
    return ["", "decontamination", *lines]


def _packing(packing: dict[str, Any]) -> list[str]:
    lines = ["", f"packed in blocks of {packing['sequence_length']:,} tokens ({packing['dtype']})"]
    for name, words in _SPLITS.items():
        split = packing[name]
        lines.append(f"  {words:24} {split['blocks']:12,} blocks, {number(split['pieces_per_document'])} pieces a document, "
                     f"{share(split['reduction'], 1)} fewer sequences than one a piece, {split['waste']:,} tokens wasted")
    return lines
