"""Signatures, exact and near copies, against set arithmetic and a naive greedy search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.cleaning import dedup
from biomistral.corpus.cleaning.shingles import words_of


def jaccard(one: list[str], two: list[str], size: int = 5) -> float:
    sets = [{tuple(words[start:start + size]) for start in range(len(words) - size + 1)} for words in (one, two)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def naive(matrix: dedup.Signatures, rank: list[int], threshold: float) -> dict[int, int]:
    """Greedy from the best down, every pair compared that shares a band."""
    kept: list[int] = []
    found = {}
    bands = matrix.reshape(len(matrix), dedup.BANDS, dedup.ROWS)
    for index in rank:
        near = [(float((matrix[other] == matrix[index]).mean()), -other) for other in kept
                if (bands[other] == bands[index]).all(axis=1).any()]
        similarity, other = max(near, default=(0.0, 0))
        if similarity >= threshold:
            found[index] = -other
        else:
            kept.append(index)
    return found


def near(matrix: dedup.Signatures, rank: list[int], threshold: float) -> dict[int, int]:
    found = dedup.near_copies(matrix, dedup.band_keys(matrix), np.array(rank, np.int64), threshold)
    assert (found.similarity >= threshold).all()
    return dict(zip(found.documents.tolist(), found.better.tolist(), strict=True))


def similar(matrix: dedup.Signatures, similarity: float, generator: np.random.Generator) -> dedup.Signatures:
    fresh = generator.integers(0, 2**32, matrix.shape, np.uint32)
    return np.where(generator.random(matrix.shape) < similarity, matrix, fresh)


def test_signatures_estimate_jaccard() -> None:
    generator = np.random.default_rng(0)
    base = [f"w{number}" for number in generator.integers(0, 5000, 2000)]
    for changed in (5, 40, 100):
        other = list(base)
        for place in generator.choice(len(base), changed, replace=False):
            other[place] = "changed"
        signed = dedup.signatures([words_of(" ".join(base)), words_of(" ".join(other))], seed=1)
        assert float((signed[0] == signed[1]).mean()) == pytest.approx(jaccard(base, other), abs=0.13)  # 3 sigma of 112 hashes


def test_signatures_do_not_depend_on_the_batch() -> None:
    documents = [words_of(text) for text in ("", "one", "one two three four", "\u4e2d\u6587 " * 9, "a b c d e f g " * 500)]
    together = dedup.signatures(documents, 7)
    assert together.shape == (5, dedup.HASHES)
    assert np.array_equal(together, np.concatenate([dedup.signatures([each], 7) for each in documents]))
    assert dedup.signatures([], 7).shape == (0, dedup.HASHES)
    assert not np.array_equal(together, dedup.signatures(documents, 8))


def test_near_copies_keep_the_best_and_do_not_chain() -> None:
    generator = np.random.default_rng(1)
    base = [f"w{number}" for number in generator.integers(0, 10**6, 1000)]
    texts = [" ".join(base), " ".join([*base[:990], *"abcdefghij"]), " ".join(f"v{number}" for number in range(1000))]
    signed = dedup.signatures([words_of(text) for text in texts], seed=1)
    assert near(signed, [1, 0, 2], 0.8) == {0: 1}
    assert near(signed, [0, 1, 2], 0.999) == {}
    chain = [generator.integers(0, 2**32, (1, dedup.HASHES), np.uint32)]
    for step in range(5):  # each differs from the one before in 14 other hashes of 112
        chain.append(chain[-1].copy())
        chain[-1][0, 14 * step:14 * step + 14] += np.uint32(1)
    assert near(np.concatenate(chain), list(range(6)), 0.8) == {1: 0, 3: 2, 5: 4}


@given(st.integers(0, 2**32), st.lists(st.sampled_from([0.7, 0.8, 0.85, 0.9, 0.95]), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_near_copies_are_the_naive_ones(seed: int, similarities: list[float]) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.integers(0, 2**32, (3, dedup.HASHES), np.uint32)
    for similarity in similarities:
        matrix = np.concatenate((matrix, similar(matrix[generator.integers(0, len(matrix), 1)], similarity, generator)))
    rank = generator.permutation(len(matrix))[:max(1, len(matrix) - 2)].tolist()
    assert near(matrix, rank, 0.8) == naive(matrix, rank, 0.8)


def test_a_large_cluster_is_one() -> None:
    generator = np.random.default_rng(2)
    head = generator.integers(0, 2**32, (1, dedup.HASHES), np.uint32)
    matrix = np.concatenate((head, similar(np.repeat(head, 3000, 0), 0.95, generator)))
    assert near(matrix, list(range(3001)), 0.8) == dict.fromkeys(range(1, 3001), 0)


def test_boilerplate_is_neither_a_copy_nor_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand documents that share one band: each compared with 64 at most, so 0.6 million instead of 50."""
    compared = 0
    original = dedup._most_similar

    def counted(matrix: dedup.Signatures, document: int, others: dedup.Indices) -> tuple[int, float]:
        nonlocal compared
        compared += len(others)
        return original(matrix, document, others)

    monkeypatch.setattr(dedup, "_most_similar", counted)
    generator = np.random.default_rng(3)
    matrix = generator.integers(0, 2**32, (10_000, dedup.HASHES), np.uint32)
    matrix[:, 8:16] = 5
    matrix[5000] = matrix[4990]
    assert near(matrix, list(range(10_000)), 0.8) == {5000: 4990}
    assert compared <= 64 * 10_000


def test_no_documents() -> None:
    nothing = np.zeros((0, dedup.HASHES), np.uint32)
    assert near(nothing, [], 0.8) == near(np.zeros((3, dedup.HASHES), np.uint32), [], 0.8) == {}


def test_exact_copies_ignore_case_and_punctuation() -> None:
    digests = [dedup.digest(words_of(text)) for text in ("Fever, cough.", "fever COUGH", "fever", "pain", "pain")]
    contents = np.unique(digests, return_inverse=True)[1].astype(np.int32)
    by_name, by_content = dedup.best_of_equals(np.array([0, 1, 2, 2, 3], np.int32), contents, np.array([1, 0, 2, 3, 4]))
    assert (by_content.documents.tolist(), by_content.better.tolist()) == ([0], [1])
    assert (by_name.documents.tolist(), by_name.better.tolist()) == ([3], [2])  # so the words of 3 live on in 4


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_equals_are_the_naive_ones(documents: list[tuple[int, int]], random: object) -> None:
    rank = list(range(len(documents)))
    random.shuffle(rank)  # type: ignore[attr-defined]
    kept: list[int] = []
    expected = {}
    for index in rank:
        same = [other for side in (0, 1) for other in kept if documents[other][side] == documents[index][side]]
        if same:
            expected[index] = same[0]
        else:
            kept.append(index)
    columns = np.array(documents, np.int32).reshape(-1, 2)
    found = dedup.best_of_equals(columns[:, 0], columns[:, 1], np.array(rank, np.int64))
    assert {int(document): int(better) for copies in found
            for document, better in zip(copies.documents, copies.better, strict=True)} == expected
