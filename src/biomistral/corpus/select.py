"""Which documents fill the token budget: code articles, then all other languages, then English (paper, section 3.1)."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomistral.corpus.language import UNKNOWN
from biomistral.corpus.ledger import Ledger
from biomistral.corpus.pieces import Packer, Piece
from biomistral.corpus.settings import CorpusSettings
from biomistral.progress import bar
from biomistral.seeds import seed

_CHUNK_WORDS = 2_000_000
_TOKENS_A_WORD = 1.5
_MISSES = 64


@dataclass
class TokenStore:
    """Token ids of the chosen documents, one after another in a file; what lies where is kept in memory."""

    path: Path
    offsets: dict[int, int] = field(default_factory=dict)
    """Document index -> its first token's place in the file."""
    lengths: dict[int, list[int]] = field(default_factory=dict)
    """Document index -> tokens of each of its pieces."""
    num_bytes: dict[int, list[int]] = field(default_factory=dict)
    """Document index -> UTF-8 size of each of its pieces."""
    size: int = 0

    def add(self, index: int, pieces: list[Piece]) -> None:
        with self.path.open("ab") as stream:
            for piece in pieces:
                stream.write(piece.tokens.astype("<u4").tobytes())
        self.offsets[index] = self.size
        self.lengths[index] = [len(piece.tokens) for piece in pieces]
        self.num_bytes[index] = [piece.num_bytes for piece in pieces]
        self.size += sum(self.lengths[index])

    def tokens(self) -> npt.NDArray[np.uint32]:
        """All tokens, memory-mapped."""
        return np.memmap(self.path, "<u4", "r", shape=(self.size,)) if self.size else np.zeros(0, np.uint32)


def order_keys(ledger: Ledger, root_seed: int) -> npt.NDArray[np.uint64]:
    """A random number a document, a function of the seed and its id alone: sorting by it shuffles the corpus."""
    return np.array([seed(root_seed, "order", name) for name in ledger.id], np.uint64)


class _Budget:
    """How many tokens may still come, in all and from each source; ``open[s]`` is False once source s is full.

    A document that does not fit is passed over for the next ones, so that a small budget is filled by short articles
    rather than not at all; a source is full once 64 in a row did not fit.
    """

    def __init__(self, settings: CorpusSettings) -> None:
        self._left: float = math.inf if settings.max_tokens is None else settings.max_tokens
        self._of_source: list[float] = [
            min(source.max_tokens or math.inf, math.inf if source.share is None else math.floor(source.share * self._left))
            for source in settings.sources]
        self._misses = [0] * len(self._of_source)
        self.open: npt.NDArray[np.bool_] = np.ones(len(self._of_source), np.bool_)

    def room(self, sources: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """For each of these sources, the tokens that still fit."""
        return np.minimum(self._left, np.array(self._of_source)[sources])

    def take(self, source: int, tokens: float) -> bool:
        """Whether a document fits; if so its tokens are gone."""
        if tokens > min(self._left, self._of_source[source]):
            self._misses[source] += 1
            self.open[source] = self._misses[source] < _MISSES
            return False
        self._misses[source] = 0
        self._left -= tokens
        self._of_source[source] -= tokens
        return True


def choose_heldout(ledger: Ledger, settings: CorpusSettings) -> npt.NDArray[np.bool_]:
    """Which kept articles stay out of training, each by a number drawn from its id, so that a corpus that grows keeps them out.

    Code articles are never held out: every category is to be learnt. At least one article is, if there are two.
    """
    draws = {index: seed(settings.seed, "heldout", ledger.id[index]) / 2**63
             for index in ledger.kept().tolist() if not ledger.ours[index]}
    chosen: npt.NDArray[np.bool_] = np.zeros(len(ledger), np.bool_)
    if settings.heldout == 0 or len(draws) < 2:
        return chosen
    found = [index for index, draw in draws.items() if draw < settings.heldout]
    chosen[found or [min(draws, key=lambda index: (draws[index], index))]] = True
    return chosen


def select(ledger: Ledger, keys: npt.NDArray[np.uint64], heldout: npt.NDArray[np.bool_], settings: CorpusSettings,
           packer: Packer, path: Path) -> TokenStore:
    """Tokenise held-out documents, then kept ones in order of precedence until the budget is full.

    The budget is one of training tokens: held-out documents do not count. What no longer fits is refused as
    ``over_budget``.
    """
    path.unlink(missing_ok=True)
    store, budget = TokenStore(path), _Budget(settings)
    kept = ledger.kept()
    order = kept[~heldout[kept]]
    if np.isfinite(budget.room(ledger.source_index[order])).any():
        order = order[np.lexsort((keys[order], _precedence(ledger)[order]))]
    with bar("tokenising", len(kept)) as progress:
        for chunk in _chunks(ledger, kept[heldout[kept]]):
            for index, pieces in _tokenise(ledger, chunk, packer).items():
                store.add(index, pieces)
            progress.advance(len(chunk))
        while len(order):
            chunk = _chunk(ledger, order, budget)
            _fill(ledger, chunk, budget, packer, store)
            progress.advance(len(chunk))
            order = order[len(chunk):]
            still_open = budget.open[ledger.source_index[order]]
            _over_budget(ledger, order[~still_open].tolist())
            order = order[still_open]
    return store


def _fill(ledger: Ledger, chunk: npt.NDArray[np.int64], budget: _Budget, packer: Packer, store: TokenStore) -> None:
    """Add those of the next documents that fit."""
    may_fit = ledger.words[chunk] <= budget.room(ledger.source_index[chunk])
    pieces = _tokenise(ledger, chunk[may_fit], packer)
    for index in chunk.tolist():
        num_tokens = sum(len(piece.tokens) for piece in pieces[index]) if index in pieces else math.inf
        if budget.open[ledger.source_index[index]] and budget.take(int(ledger.source_index[index]), num_tokens):
            store.add(index, pieces.pop(index))
        else:
            _over_budget(ledger, [index])


def _chunks(ledger: Ledger, order: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Documents cut into runs of about two million words."""
    borders = np.cumsum(ledger.words[order]) // _CHUNK_WORDS
    return [part for part in np.split(order, np.flatnonzero(np.diff(borders)) + 1) if len(part)]


def _over_budget(ledger: Ledger, indices: list[int]) -> None:
    for index in indices:
        ledger.refuse(index, "over_budget", "the token budget was full")


def _precedence(ledger: Ledger) -> npt.NDArray[np.int8]:
    """0: code articles, 1: languages other than English, 2: English (or unknown)."""
    english = np.array([name in ("en", UNKNOWN) for name in ledger.language], np.bool_)
    return np.where(ledger.ours, 0, np.where(english, 2, 1)).astype(np.int8)


def _chunk(ledger: Ledger, order: npt.NDArray[np.int64], budget: _Budget) -> npt.NDArray[np.int64]:
    """The next documents to tokenise at once: about two million words, or as many as there may be room for."""
    room = budget.room(ledger.source_index[order])
    limit = min(_CHUNK_WORDS, float(room.min()) / _TOKENS_A_WORD)
    words = np.where(ledger.words[order] > room, 0, ledger.words[order])  # what cannot fit is not tokenised
    return order[:int(np.searchsorted(np.cumsum(words), limit)) + 1]


def _tokenise(ledger: Ledger, chunk: npt.NDArray[np.int64], packer: Packer) -> dict[int, list[Piece]]:
    wanted: npt.NDArray[np.bool_] = np.zeros(len(ledger), np.bool_)
    wanted[chunk] = True
    found: dict[int, list[Piece]] = {}
    for indices, table in ledger.groups(wanted, ["text"]):
        found.update(zip(indices.tolist(), packer.documents(table.column("text").to_pylist()), strict=True))
    return found
