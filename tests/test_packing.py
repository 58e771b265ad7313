"""Pieces with their frames, and blocks: nothing lost, borders true, best fit within its bound."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.corpus.packing.pack import best_fit
from biomistral.corpus.packing.pieces import Packer, packer_for, split_words
from biomistral.errors import UserError
from tiny import make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(path)
    return path


def pieces_of(packer: Packer, texts: list[str]) -> list[list[list[int]]]:
    """Documents -> pieces -> ids."""
    found = packer.documents(texts)
    flat = [part.tolist() for part in np.split(found.tokens, np.cumsum(found.lengths)[:-1])] if len(found.lengths) else []
    ends = np.cumsum(found.per_document)
    return [flat[end - count:end] for end, count in zip(ends.tolist(), found.per_document.tolist(), strict=True)]


@pytest.mark.parametrize(("bos", "eos"), [("always", "piece"), ("always", "document"), ("never", "piece"), ("never", "never")])
def test_frames(folder: Path, bos: str, eos: str) -> None:
    packer = packer_for(folder, 2, bos, eos)
    documents = pieces_of(packer, ["one two three four five", "", "six"])
    plain = pieces_of(packer_for(folder, 2, "never", "never"), ["one two three four five", "", "six"])
    assert [len(pieces) for pieces in documents] == [3, 0, 1]
    for pieces, bare in zip(documents, plain, strict=True):
        for number, (piece, ids) in enumerate(zip(pieces, bare, strict=True)):
            head = [packer.bos] if bos == "always" else []
            tail = [packer.eos] if eos == "piece" or (eos == "document" and number == len(pieces) - 1) else []
            assert piece == head + ids + tail
    found = packer.documents(["one two three four five", "", "six"])
    assert found.tokens_per_document().tolist() == [sum(map(len, pieces)) for pieces in documents]
    assert found.num_bytes.tolist() == [7, 10, 4, 3]


def test_policies_the_tokenizer_cannot_keep(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(re.sub(r'"(bos|eos)_token": "[^"]*",?', "", config.read_text()))
    for bos, eos, name in (("always", "never", "BOS"), ("never", "piece", "EOS")):
        with pytest.raises(UserError, match=f"has no {name} token"):
            packer_for(tmp_path, None, bos, eos)
    assert packer_for(tmp_path, None, "auto", "never").bos is None


@given(st.text(alphabet="ab \n\u3000\u4e2d", max_size=80), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_pieces_hold_every_word_once(text: str, most: int) -> None:
    pieces = split_words(text, most)
    count = [len(re.findall(r"\u4e2d|[^\s\u4e2d]+", piece)) for piece in pieces]
    assert all(number == most for number in count[:-1])
    assert all(0 < number <= most for number in count)
    assert all(piece == piece.strip() for piece in pieces)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


@given(st.lists(st.integers(1, 50), max_size=80))
@settings(max_examples=200, deadline=None)
def test_best_fit(lengths: list[int]) -> None:
    bins = best_fit(lengths, 50)
    assert sorted(item for chosen in bins for item in chosen) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in chosen) <= 50 for chosen in bins)
    # best-fit decreasing takes at most 11/9 of the fewest bins and one more (Johnson et al. 1974); a lower bound of those:
    assert 9 * len(bins) <= 11 * -(-sum(lengths) // 50) * 1.0 + 9 * sum(length > 16 for length in lengths) + 9
    assert bins == sorted(bins)
    naive: list[int] = []
    for length in sorted(lengths, reverse=True):
        _, place = min(((50 - used - length, number) for number, used in enumerate(naive) if used + length <= 50),
                          default=(0, len(naive)))
        if place == len(naive):
            naive.append(0)
        naive[place] += length
    assert len(bins) == len(naive)
    assert sorted(sum(lengths[item] for item in chosen) for chosen in bins) == sorted(naive)
