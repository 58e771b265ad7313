"""Near-duplicates among millions of synthetic signatures with planted copies: time, memory, recall beside theory.

    python perf/dedup_scale.py [millions of documents, default 1]

Planted: pairs of known similarity, a cluster of 10,000, chains of small differences, and 100,000 documents that share one
band by boilerplate and nothing else. Theory: the probability that at least one of 14 bands is equal and the estimate reaches
the threshold, for independent hashes.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from biomistral.corpus.cleaning.dedup import BANDS, HASHES, ROWS, Copies, band_keys, near_copies

THRESHOLD = 0.8
PAIRS = dict.fromkeys((0.7, 0.75, 0.8, 0.85, 0.9, 0.95), 5000)
CLUSTER, BOILERPLATE, CHAINS, LINKS = 10_000, 100_000, 200, 30
CHUNK = 100_000


def theory(similarity: float) -> float:
    """P(a band is equal and the estimate is at least the threshold)."""
    one = np.array([1.0])
    for _ in range(ROWS):
        one = np.convolve(one, [1 - similarity, similarity])
    every, none = np.array([1.0]), np.array([1.0])
    for _ in range(BANDS):
        every, none = np.convolve(every, one), np.convolve(none, one[:-1])
    least = int(np.ceil(THRESHOLD * HASHES))
    return float(every[least:].sum() - none[least:].sum())


def similar(rows: np.ndarray, similarity: float, generator: np.random.Generator) -> np.ndarray:
    """Copies in which each hash stays with the probability ``similarity``."""
    fresh = generator.integers(0, 1 << 32, rows.shape, np.uint32)
    return np.where(generator.random(rows.shape) < similarity, rows, fresh)


def planted(generator: np.random.Generator) -> tuple[np.ndarray, dict[str, slice]]:
    """Signatures and where each kind lies; the originals of a kind come before their copies."""
    blocks, places, start = [], {}, 0

    def add(name: str, rows: np.ndarray) -> None:
        nonlocal start
        blocks.append(rows)
        places[name] = slice(start, start + len(rows))
        start += len(rows)

    for similarity, count in PAIRS.items():
        rows = generator.integers(0, 1 << 32, (count, HASHES), np.uint32)
        add(f"originals {similarity}", rows)
        add(f"copies {similarity}", similar(rows, similarity, generator))
    head = generator.integers(0, 1 << 32, (1, HASHES), np.uint32)
    add("cluster", np.concatenate((head, similar(np.repeat(head, CLUSTER, 0), 0.92, generator))))
    link = generator.integers(0, 1 << 32, (CHAINS, HASHES), np.uint32)
    for number in range(LINKS):
        add(f"link {number}", link)
        link = similar(link, 0.9, generator)
    rows = generator.integers(0, 1 << 32, (BOILERPLATE, HASHES), np.uint32)
    rows[:, 3 * ROWS:4 * ROWS] = 7
    add("boilerplate", rows)
    return np.concatenate(blocks), places


def searched(folder: Path, documents: int, rows_of: Callable[[int, int], np.ndarray]) -> tuple[Copies, dict[str, float]]:
    """Near copies among ``documents`` signatures, of which ``rows_of(start, end)`` gives some; and what that took."""
    matrix = np.lib.format.open_memmap(folder / "signatures.npy", "w+", np.uint32, (documents, HASHES))
    keys = np.lib.format.open_memmap(folder / "keys.npy", "w+", np.uint64, (BANDS, documents))
    for start in range(0, documents, CHUNK):
        rows = slice(start, min(documents, start + CHUNK))
        matrix[rows] = rows_of(rows.start, rows.stop)
        keys[:, rows] = band_keys(matrix[rows])
    started = time.process_time()
    found = near_copies(np.asarray(matrix), np.asarray(keys), np.arange(documents), THRESHOLD)
    return found, {
        "documents": documents, "cpu_seconds": round(time.process_time() - started, 1), "copies_found": len(found.documents),
        "peak_rss_gb_so_far": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "of_it_mapped_from_disk_gb": round(documents * (HASHES * 4 + BANDS * 8) / 1e9, 2)}


def planted_run(folder: Path, documents: int) -> dict[str, object]:
    generator = np.random.default_rng(0)
    known, places = planted(generator)

    def rows_of(start: int, end: int) -> np.ndarray:
        rest = generator.integers(0, 1 << 32, (end - max(start, min(end, len(known))), HASHES), np.uint32)
        return np.concatenate((known[start:end], rest))

    found, numbers = searched(folder, documents, rows_of)
    better = dict(zip(found.documents.tolist(), found.better.tolist(), strict=True))
    recall = {}
    for similarity, count in PAIRS.items():
        copies, originals = places[f"copies {similarity}"], places[f"originals {similarity}"]
        hits = sum(better.get(copies.start + number) == originals.start + number for number in range(count))
        recall[similarity] = {"found": hits / count, "theory": round(theory(similarity), 4)}

    def refused(name: str) -> int:
        return sum(index in better for index in range(places[name].start, places[name].stop))

    return {
        **numbers, "threshold": THRESHOLD, "recall_of_pairs_by_similarity": recall,
        "cluster": {"copies": CLUSTER, "refused": refused("cluster")},
        "chains": {"documents": CHAINS * LINKS, "refused": sum(refused(f"link {number}") for number in range(LINKS))},
        "boilerplate": {"documents": BOILERPLATE, "refused": refused("boilerplate")},
        "false_copies_among_the_rest": sum(index >= len(known) for index in better)}


def paired_run(folder: Path, documents: int) -> dict[str, object]:
    """The worst case: every document has one near copy, half the corpus away."""
    seed, half = 1, documents // 2 // CHUNK * CHUNK

    def rows_of(start: int, end: int) -> np.ndarray:
        original = np.random.default_rng((seed, start % half)).integers(0, 1 << 32, (end - start, HASHES), np.uint32)
        return original if start < half else similar(original, 0.93, np.random.default_rng((seed, start)))

    return {**searched(folder, 2 * half, rows_of)[1], "copies": half, "theory": round(theory(0.93), 4)}


def main(documents: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {"planted": planted_run(Path(folder), documents), "every_document_twice": paired_run(Path(folder), documents)}
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "dedup_scale.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * 1e6))
