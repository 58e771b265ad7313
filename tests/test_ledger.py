"""The ledger over parts on the disk, against a plain list of rows; and the copies refused in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.corpus.cleaning import dedup
from biomistral.corpus.cleaning.copies import refuse_copies
from biomistral.corpus.cleaning.shingles import words_of
from biomistral.corpus.ledger import Ledger

SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("id", "text", "source", "licence", "language", "url", "reason", "detail")),
    ("words", pa.int32()), ("tokens", pa.int32()), ("digest", pa.binary()), ("signature", pa.binary()),
    ("updated", pa.string())])


def row(identifier: str, text: str = "", **values: Any) -> dict[str, Any]:
    words = words_of(text)
    found = {"id": identifier, "text": text, "source": "pmc", "licence": "CC-BY-4.0", "language": "en", "url": "", "detail": "",
             "words": len(words), "tokens": 2 * len(words), "digest": dedup.digest(words), "updated": "",
             "signature": dedup.signatures([words], 1)[0].astype("<u4").tobytes()}
    return found | values


def refused(identifier: str, reason: str, detail: str) -> dict[str, Any]:
    return row(identifier, reason=reason, detail=detail, digest=b"", signature=None)


def ledger_of(folder: Path, parts: list[list[dict[str, Any]]], ours: list[bool] | None = None, group: int = 2) -> Ledger:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"part-{number:05d}.parquet" for number in range(len(parts))]
    for path, rows in zip(paths, parts, strict=True):
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=group)
    return Ledger(paths, list(range(len(parts))), ours or [False] * len(parts))


def text(seed: int, words: int = 300) -> str:
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, 10**6, words))


def test_the_newest_of_one_id_is_kept_however_short(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "parts", [
        [row("a", text(1), updated="2024-01-02 10:00:00"), row("b", text(2), updated="2024-01-02"), row("c", text(3))],
        [row("a", text(4, 100), updated="2024-03-01"), row("b", text(5, 100), updated="2023-01-01"), row("c", text(6, 100))]])
    refuse_copies(ledger, None, tmp_path, tmp_path)
    assert ledger.kept().tolist() == [1, 2, 3]


def edited(original: str, share: float, seed: int = 0) -> str:
    words = original.split()
    generator = np.random.default_rng(seed)
    for place in generator.choice(len(words), int(share * len(words)), replace=False):
        words[place] = f"edit{place}"
    return " ".join(words)


@pytest.fixture
def parts() -> list[list[dict[str, Any]]]:
    return [
        [row("a", text(1), url="https://one"), refused("b", "licence", "states no licence"), row("c", text(2), language="fr")],
        [],
        [refused("d", "too_short", "3 words"), row("\u00e9\u4e2d", text(3), licence="CC0-1.0", source="other", url=None)],
        [row("e", text(4)), refused("f", "licence", "CC-BY-NC-4.0")],
    ]


def test_columns(tmp_path: Path, parts: list[list[dict[str, Any]]]) -> None:
    ledger = ledger_of(tmp_path, parts, [False, False, False, True])
    rows = [each for part in parts for each in part]
    assert len(ledger) == 7
    assert ledger.starts.tolist() == [0, 3, 3, 5, 7]
    assert ledger.ids(range(7)) == [each["id"] for each in rows]
    for values, codes, name in ((ledger.sources, ledger.source_code, "source"), (ledger.licences, ledger.licence_code, "licence"),
                                (ledger.languages, ledger.language_code, "language")):
        assert [values[code] for code in codes] == [each[name] for each in rows]
        assert len(set(values)) == len(values)
    assert (ledger.words.tolist(), ledger.tokens.tolist()) == ([r["words"] for r in rows], [r["tokens"] for r in rows])
    assert ledger.named.tolist() == [bool(each["url"]) for each in rows]
    assert ledger.ours.tolist() == [False] * 5 + [True] * 2
    assert ledger.source_index.tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert ledger.kept().tolist() == [0, 2, 4, 5]


def test_refusals_tell_why_and_of_what(tmp_path: Path, parts: list[list[dict[str, Any]]]) -> None:
    ledger = ledger_of(tmp_path, parts)
    ledger.refuse([5], "duplicate", [0])
    ledger.refuse([4], "near_duplicate", [2], [0.934])
    ledger.refuse(np.array([2]), "over_budget")
    ledger.refuse([], "over_budget")
    assert ledger.refusals() == {"licence": 2, "duplicate": 1, "near_duplicate": 1, "over_budget": 1, "too_short": 1}
    assert [tuple(each.values()) for each in ledger.rejected()] == [
        ("b", "pmc", "licence", "states no licence"), ("c", "pmc", "over_budget", "the token budget was full"),
        ("d", "pmc", "too_short", "3 words"), ("\u00e9\u4e2d", "other", "near_duplicate", "0.93 similar to c"),
        ("e", "pmc", "duplicate", "copy of a"), ("f", "pmc", "licence", "CC-BY-NC-4.0")]
    with pytest.raises(AssertionError):
        ledger.refuse([2], "duplicate", [0])


def test_groups_stream_the_wanted_rows(tmp_path: Path, parts: list[list[dict[str, Any]]]) -> None:
    ledger = ledger_of(tmp_path, parts)
    wanted = np.array([True, False, True, False, True, False, True])
    found = [(index, identifier) for indices, table in ledger.groups(wanted, ["id"])
             for index, identifier in zip(indices.tolist(), table.column("id").to_pylist(), strict=True)]
    assert found == [(0, "a"), (2, "c"), (4, "\u00e9\u4e2d"), (6, "f")]


def test_a_ledger_of_nothing(tmp_path: Path) -> None:
    for parts in ([], [[]]):
        ledger = ledger_of(tmp_path / str(len(parts)), parts)
        refuse_copies(ledger, 0.8, tmp_path, tmp_path)
        assert (len(ledger), ledger.refusals(), list(ledger.rejected()), ledger.kept().tolist()) == (0, {}, [], [])
        assert pq.read_table(tmp_path / "duplicates.parquet").num_rows == 0


def test_bytes_a_document(tmp_path: Path) -> None:
    """At most 150 with an id of 12 characters: six million fit 0.9 GB."""
    rows = [row(f"PMC{number:09d}", url="x", digest=b"%016d" % number) for number in range(2000)]
    ledger = ledger_of(tmp_path, [rows], group=500)
    arrays = [value.nbytes for value in vars(ledger).values() if hasattr(value, "nbytes")]
    assert sum(arrays) / 2000 < 75


# ---- copies ---------------------------------------------------------------------------------------------------------


def clusters(ledger: Ledger, folder: Path, threshold: float | None = 0.8) -> list[tuple[str, str, str, float | None]]:
    refuse_copies(ledger, threshold, folder, folder)
    return [(each["document"], each["kept"], each["kind"], each["similarity"] and round(each["similarity"], 1))
            for each in pq.read_table(folder / "duplicates.parquet").to_pylist()]


def test_the_best_copy_is_kept_across_sources(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [
        [row("short", text(1)), row("unnamed", text(2)), row("near", edited(text(3), 0.01))],
        [row("long", text(1) + " and one more"), row("named", text(2).upper(), url="u"), row("far", edited(text(3), 0.2))],
        [row("original", text(3) + " with more words"), row("named", text(5, 200))],
    ])
    assert clusters(ledger, tmp_path) == [
        ("short", "long", "near_duplicate", 1.0), ("unnamed", "named", "duplicate", 1.0),
        ("near", "original", "near_duplicate", 0.9), ("named", "named", "duplicate_id", None)]
    assert ledger.ids(ledger.kept()) == ["long", "named", "far", "original"]
    assert {each["id"]: each["detail"].split()[-1] for each in ledger.rejected()} == {
        "short": "long", "unnamed": "named", "near": "original", "named": "named"}


def test_clusters_name_what_is_kept_in_the_end(tmp_path: Path) -> None:
    middle = edited(text(1), 0.01)
    rows = [row("best", text(1) + " indeed"), row("copy", middle), row("middle", middle, url="u"), row("middle", text(9, 50))]
    assert clusters(ledger_of(tmp_path, [rows]), tmp_path) == [
        ("copy", "best", "duplicate", 0.9), ("middle", "best", "near_duplicate", 0.9), ("middle", "best", "duplicate_id", None)]


def test_code_articles_are_no_copies(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [[row("a", text(1)), row("b", text(1))], [row("c", text(1)), row("d", text(1))]],
                       [True, False])
    assert clusters(ledger, tmp_path) == [("d", "c", "duplicate", 1.0)]


def test_exact_copies_only(tmp_path: Path) -> None:
    rows = [row("a", text(1)), row("b", edited(text(1), 0.01)), row("c", text(1))]
    assert clusters(ledger_of(tmp_path, [rows]), tmp_path, None) == [("c", "a", "duplicate", 1.0)]


def test_the_parts_do_not_matter(tmp_path: Path) -> None:
    rows = [row(f"d{number}", edited(text(number % 5), 0.004 * (number % 3), number)) for number in range(30)]
    whole = clusters(ledger_of(tmp_path / "one", [rows]), tmp_path / "one")
    split = clusters(ledger_of(tmp_path / "many", [rows[:7], rows[7:8], [], rows[8:]]), tmp_path / "many")
    assert whole == split
    assert len(whole) == 25
