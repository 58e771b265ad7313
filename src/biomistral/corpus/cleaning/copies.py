"""Refuse the copies in a ledger, keeping of each cluster the best, and write down the clusters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from biomistral.corpus.cleaning import dedup
from biomistral.corpus.cleaning.shingles import Hashes
from biomistral.corpus.ledger import Ledger
from biomistral.records import write_table

DUPLICATE_SCHEMA = pa.schema([
    ("document", pa.string()), ("kept", pa.string()), ("kind", pa.string()), ("similarity", pa.float32())])
"""One row a copy: ``kind`` is the reason it was refused for; ``similarity`` to what is kept, null where only the id is equal."""

_SAME_ID, _SAME_WORDS, _SIMILAR = "duplicate_id", "duplicate", "near_duplicate"
_ROWS = 1 << 16


def refuse_copies(ledger: Ledger, threshold: float | None, scratch: Path, out: Path) -> None:
    """Refuse documents with the id or the words of another, and near copies from ``threshold`` on; None: exact ones only.

    Kept is the copy with the most words; of equals one with an address (PMCID or DOI), then the first read. Of those with
    one id, where a package says when each was updated, only the newest can be kept. Code articles are left out: each
    retells others on purpose. Writes ``out/duplicates.parquet``; memory: 250 bytes a document and, while the system has
    room, the signatures of those that share a band (mapped from ``scratch``).
    """
    rank = ledger.kept()
    rank = rank[~ledger.ours[rank]]
    rank = rank[np.lexsort((rank, ~ledger.named[rank], -ledger.words[rank], _superseded(ledger, rank)))]
    by_id, by_words = dedup.best_of_equals(ledger.id_code(), ledger.content, rank)
    refused = {_SAME_ID: by_id, _SAME_WORDS: by_words}
    for reason, copies in refused.items():
        ledger.refuse(copies.documents, reason, copies.better)
    if threshold is not None:
        rank = rank[np.isin(rank, np.concatenate((by_id.documents, by_words.documents)), invert=True)]
        copies = refused[_SIMILAR] = dedup.near_copies(*_signatures(ledger, rank, scratch), rank, threshold)
        ledger.refuse(copies.documents, _SIMILAR, copies.better, copies.similarity)
    write_table(out / "duplicates.parquet", _clusters(ledger, refused), DUPLICATE_SCHEMA, _ROWS)


def _superseded(ledger: Ledger, documents: dedup.Indices) -> npt.NDArray[np.bool_]:
    """Which of these documents were updated before another with the same id; an article set's updates replace its articles."""
    wanted: npt.NDArray[np.bool_] = np.zeros(len(ledger), np.bool_)
    wanted[documents] = True
    updated = [table.column("updated").combine_chunks() for _, table in ledger.groups(wanted, ["updated"])]
    if not updated:
        return wanted[:0]
    # documents come in order, as ``groups`` does; equal times have equal ranks
    stamps: npt.NDArray[np.uint64] = pc.rank(pa.concat_arrays(updated).fill_null(""), tiebreaker="dense").to_numpy()
    ids = ledger.id_code()[documents]
    newest: npt.NDArray[np.uint64] = np.zeros(int(ids.max()) + 1, np.uint64)
    np.maximum.at(newest, ids, stamps)
    return stamps < newest[ids]


def _signatures(ledger: Ledger, rank: dedup.Indices, scratch: Path) -> tuple[dedup.Signatures, Hashes]:
    """Signatures and band keys of the ranked documents, on the disk; zeros for all others."""
    matrix: dedup.Signatures = _mapped(scratch / "signatures.npy", np.uint32, (len(ledger), dedup.HASHES))
    keys: Hashes = _mapped(scratch / "keys.npy", np.uint64, (dedup.BANDS, len(ledger)))
    wanted: npt.NDArray[np.bool_] = np.zeros(len(ledger), np.bool_)
    wanted[rank] = True
    for indices, table in ledger.groups(wanted, ["signature"]):
        data = b"".join(table.column("signature").to_pylist())
        signatures = np.frombuffer(data, "<u4").reshape(len(indices), dedup.HASHES)
        matrix[indices] = signatures
        keys[:, indices] = dedup.band_keys(signatures)
    return matrix, keys


def _mapped(path: Path, dtype: Any, shape: tuple[int, int]) -> Any:
    """An array of zeros in a file; an empty one cannot be mapped."""
    return np.asarray(np.lib.format.open_memmap(path, "w+", dtype, shape)) if 0 not in shape else np.zeros(shape, dtype)


def _clusters(ledger: Ledger, refused: dict[str, dedup.Copies]) -> Iterator[dict[str, Any]]:
    """The rows of ``duplicates.parquet`` in the order of the documents, each with what is kept in the end.

    What was kept of exact copies may itself be a near copy of another, which is then what is kept.
    """
    documents = np.concatenate([copies.documents for copies in refused.values()])
    kinds: npt.NDArray[np.int64] = np.repeat(np.arange(len(refused)), [len(copies.documents) for copies in refused.values()])
    order = np.argsort(documents)
    documents, kinds = documents[order], kinds[order]
    better = np.concatenate([copies.better for copies in refused.values()])[order]
    similarity = np.concatenate([copies.similarity for copies in refused.values()])[order]
    similarity[kinds == list(refused).index(_SAME_ID)] = np.nan
    while len(again := np.flatnonzero(np.isin(better, documents))):
        step = np.searchsorted(documents, better[again])
        better[again], similarity[again] = better[step], similarity[again] * similarity[step]
    for start in range(0, len(documents), _ROWS):
        rows = slice(start, start + _ROWS)
        for document, kept, kind, similar in zip(ledger.ids(documents[rows]), ledger.ids(better[rows]), kinds[rows].tolist(),
                                                 similarity[rows].tolist(), strict=True):
            yield {"document": document, "kept": kept, "kind": list(refused)[kind],
                   "similarity": None if np.isnan(similar) else similar}
