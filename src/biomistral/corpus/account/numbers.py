"""The numbers of a corpus folder, read back from its files, so that they say what was written and not what was meant.

Files are streamed by their light columns: memory grows with the number of journals and of clusters of copies, not with
the number of documents.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomistral.corpus.account.tallies import Lengths, Ratios, Tally

TOP = 30  # journals, and pairs of languages, that are named; the others are one row
EXAMPLES, SAMPLES, SAMPLE_CHARACTERS, CLUSTERS = 3, 3, 600, 5
_BATCH = 1 << 16
_LIGHT = {"language": pa.string(), "language_declared": pa.string(), "licence": pa.string(), "source": pa.string(),
          "year": pa.int32(), "journal": pa.string(), "article_type": pa.string(), "words": pa.int32(), "tokens": pa.int32()}
_GROUPS = ("language", "licence", "source", "year", "journal", "article_type")
_SAMPLE = {"id": pa.string(), "title": pa.string(), "language": pa.string(), "licence": pa.string(), "url": pa.string(),
           "text": pa.string()}
_REFUSED = {"id": pa.string(), "source": pa.string(), "reason": pa.string(), "detail": pa.string(), "words": pa.int32(),
            "tokens": pa.int32()}
_COPIES = {"kept": pa.string(), "kind": pa.string(), "words": pa.int32(), "tokens": pa.int32()}
Row: TypeAlias = dict[str, Any]


def statistics(folder: Path, facts: Row) -> Row:
    """Everything the page shows, as plain data.

    Args:
        folder: a corpus folder with its files written (docs/formats.md).
        facts: what only the build knows: the manifest's counts ``read``, ``documents``, ``words`` and ``refused``; where they
            are given also ``settings``, ``language_detection`` and ``tokenised_by``, ``read_words`` and ``read_tokens``.
    """
    documents = _documents(folder / "documents.parquet")
    refused, refused_by_source = _refused(folder / "refused.parquet")
    for row in documents["source"]:
        row["refused"] = refused_by_source.pop(row["source"], 0)
    documents["source"] += [{"source": name, "documents": 0, "words": 0, "tokens": 0, "refused": count}
                            for name, count in sorted(refused_by_source.items())]
    kept = documents.pop("kept")
    return {
        "read": {"documents": facts["read"], "words": facts.get("read_words"), "tokens": facts.get("read_tokens")},
        "kept": kept, "refused": refused, "by": documents, "duplicates": _duplicates(folder / "duplicates.parquet"),
        "decontamination": _json(folder / "decontamination.json"), "packing": _packing(folder / "packing.json"),
        "samples": _samples(folder / "documents.parquet"), "settings": facts.get("settings") or {},
        "language_detection": facts.get("language_detection"), "tokenised_by": facts.get("tokenised_by"),
        "checks": _checks(folder, facts, kept, refused)}


def read_statistics(folder: Path, facts: Row) -> Row:
    """The corpus' own ``statistics.json``; made now for a corpus that an earlier version wrote without one."""
    found: Row | None = _json(folder / "statistics.json")
    return statistics(folder, facts) if found is None else found


def _batches(path: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """These columns, 65,536 rows at a time; one that is not there is null."""
    schema = pa.schema(list(columns.items()))
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH, columns=there):
            arrays = [batch.column(name).cast(kind) if name in there else pa.nulls(len(batch), kind)
                      for name, kind in columns.items()]
            yield pa.table(arrays, schema=schema)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


# ---- documents kept -------------------------------------------------------------------------------------------------


def _documents(path: Path) -> Row:
    """Sums by every column, and the distributions of lengths, in one pass."""
    tallies = {name: Tally(name) for name in _GROUPS}
    pairs, words, tokens, ratios = Tally("language_declared", "language"), Lengths(), Lengths(), Ratios()
    declared = "language_declared" in pq.read_schema(path).names
    for table in _batches(path, _LIGHT):
        for tally in (*tallies.values(), pairs):
            tally.add(table)
        words.add(table.column("words"))
        tokens.add(table.column("tokens"))
        ratios.add(table)
    rows = {name: tally.rows(by_name=name == "year") for name, tally in tallies.items()}
    total = {what: sum(row[what] for row in rows["licence"]) for what in ("documents", "words", "tokens")}
    return {"kept": {**total, "tokens_per_word": _ratio(total)}, **rows, "journal": _top(rows["journal"], "journal"),
            "journals": len(tallies["journal"]) - any(not row["journal"] for row in rows["journal"]),
            "language_declared": [_without(row, "words", "tokens") for row in _top(pairs.rows(), "language_declared", "language")]
            if declared else None,
            "words": words.summary(), "tokens": tokens.summary(), "tokens_per_word": ratios.bins()}


def _ratio(total: Row) -> float | None:
    return round(total["tokens"] / total["words"], 3) if total["words"] and total["tokens"] else None


def _top(rows: list[Row], *names: str) -> list[Row]:
    """The first rows, and one for all others."""
    others = rows[TOP:]
    if not others:
        return rows
    summed = {what: sum(row[what] for row in others) for what in ("documents", "words", "tokens")}
    return [*rows[:TOP], {**dict.fromkeys(names, ""), "others": len(others), **summed}]


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _samples(path: Path) -> list[Row]:
    """The beginnings of three documents, from all over the file."""
    with pq.ParquetFile(path) as file:
        total = file.metadata.num_rows
        places = sorted({(2 * number + 1) * total // (2 * SAMPLES) for number in range(SAMPLES)}) if total else []
        return [_sample(file, place) for place in places]


def _sample(file: pq.ParquetFile, place: int) -> Row:
    group = 0
    while place >= (rows := file.metadata.row_group(group).num_rows):
        place, group = place - rows, group + 1
    for batch in file.iter_batches(64, row_groups=[group], columns=list(_SAMPLE)):
        if place < len(batch):
            row = batch.slice(place, 1).to_pylist()[0]
            return {**row, "text": row["text"][:SAMPLE_CHARACTERS], "characters": len(row["text"])}
        place -= len(batch)
    raise AssertionError("a row group is shorter than its metadata says")


# ---- documents refused ----------------------------------------------------------------------------------------------


def _refused(path: Path) -> tuple[list[Row], dict[str, int]]:
    """For each reason its documents and the first examples; and how many were refused of each source."""
    reasons, sources = Tally("reason"), Tally("source")
    examples: dict[str, list[Row]] = {}
    for table in _batches(path, _REFUSED):
        reasons.add(table)
        sources.add(table)
        for reason in pc.unique(table.column("reason")).to_pylist():
            found = examples.setdefault(reason, [])
            if len(found) < EXAMPLES:
                found += refused_rows(table, reason).slice(0, EXAMPLES - len(found)).to_pylist()
    rows = [{"reason": row["reason"], "documents": row["documents"], "examples": examples[row["reason"]]}
            for row in reasons.rows()]
    return rows, {row["source"]: row["documents"] for row in sources.rows()}


def refused_rows(table: pa.Table, reason: str) -> pa.Table:
    """Id, source and detail of the rows refused for a reason."""
    return table.filter(pc.equal(table.column("reason"), reason)).select(["id", "source", "detail"])


def refused_of(path: Path, reason: str) -> Iterator[Row]:
    """Every document refused for a reason, streamed from ``refused.parquet``."""
    for table in _batches(path, _REFUSED):
        yield from refused_rows(table, reason).to_pylist()


def _duplicates(path: Path) -> Row | None:
    """Copies and clusters of each kind, and the largest clusters."""
    if not path.is_file():
        return None
    tally = Tally("kind", "kept")
    for table in _batches(path, _COPIES):
        tally.add(table)
    clusters = tally.rows()
    kinds = [{"kind": kind, "clusters": sum(row["kind"] == kind for row in clusters),
              "copies": sum(row["documents"] for row in clusters if row["kind"] == kind)}
             for kind in sorted({row["kind"] for row in clusters})]
    largest = [{"kept": row["kept"], "kind": row["kind"], "copies": row["documents"]} for row in clusters[:CLUSTERS]]
    return {"kinds": kinds, "largest": largest}


# ---- packing, and whether all adds up -------------------------------------------------------------------------------


def _packing(path: Path) -> Row:
    """packing.json, and for each split the mean pieces a document (None of no documents)."""
    packing: Row = json.loads(path.read_text(encoding="utf-8"))
    for name in ("train", "heldout"):
        split = packing[name]
        split["pieces_per_document"] = round(split["pieces"] / split["documents"], 2) if split["documents"] else None
    return packing


def _checks(folder: Path, facts: Row, kept: Row, refused: Sequence[Row]) -> list[Row]:
    """What must add up: the words for it and both numbers."""
    total = sum(row["documents"] for row in refused)
    checks = [("documents read, and kept or refused", facts["read"], kept["documents"] + total),
              ("documents counted as kept, and rows of documents.parquet", facts["documents"], kept["documents"]),
              ("documents counted as refused, and rows of refused.parquet", sum(facts["refused"].values()), total)]
    if "words" in pq.read_schema(folder / "documents.parquet").names:
        checks.append(("words counted, and words of documents.parquet", facts["words"], kept["words"]))
    attribution = folder / "ATTRIBUTION.tsv"
    if attribution.is_file():
        with attribution.open("rb") as stream:
            checks.append(("documents kept, and lines of ATTRIBUTION.tsv", kept["documents"], sum(1 for _ in stream) - 1))
    return [{"what": what, "expected": expected, "found": found, "agrees": expected == found} for what, expected, found in checks]
