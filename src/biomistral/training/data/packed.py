"""Packed corpora: memory-mapped shards of tokens, read as isolated segments (docs/formats.md, "Corpus folder")."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.errors import UserError
from biomistral.training.data.batch import IGNORE, Block


def read_packing(corpus: Path) -> dict[str, Any]:
    """The corpus's ``packing.json``.

    Raises:
        UserError: the folder is not a corpus, or the file lacks what training needs.
    """
    path = corpus / "packing.json"
    if not path.is_file():
        raise UserError(f"{corpus}: not a corpus folder: it has no packing.json")
    try:
        packing = json.loads(path.read_text(encoding="utf-8"))
        _ = packing["sequence_length"], packing["vocab_size"], packing["tokenizer"]
        _ = packing["train"]["blocks"], packing["heldout"]["blocks"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a packing ({error!r}); build the corpus again") from error
    assert isinstance(packing, dict)
    return packing


@dataclass(frozen=True)
class _Shard:
    """``tokens`` (blocks, sequence_length), memory-mapped; where pieces start in it; and which document each is of."""

    tokens: np.ndarray
    starts: np.ndarray
    documents: pa.ChunkedArray

    @classmethod
    def open(cls, path: Path, sequence_length: int) -> "_Shard":
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: truncated or corrupt ({error}); build the corpus again") from error
        if tokens.ndim != 2 or tokens.shape[1] != sequence_length:
            raise UserError(f"{path}: shape {tokens.shape}, but packing.json says sequences of {sequence_length} tokens; "
                            "build the corpus again")
        pieces_path = path.with_name(path.name.replace(".tokens.npy", ".pieces.parquet"))
        try:
            pieces = pq.read_table(pieces_path, columns=["start", "length", "document"])
        except (FileNotFoundError, pa.ArrowInvalid, KeyError) as error:
            raise UserError(f"{pieces_path}: missing or unreadable ({error}); build the corpus again") from error
        starts, lengths = pieces["start"].to_numpy(), pieces["length"].to_numpy().astype(np.int64)
        ends = starts + lengths
        covered = len(starts) and starts[0] == 0 and ends[-1] == tokens.size and bool((ends[:-1] == starts[1:]).all())
        if not covered or lengths.min() < 1:
            raise UserError(f"{pieces_path}: its pieces do not cover the {tokens.size} tokens one after the other; "
                            "build the corpus again")
        return cls(tokens, starts, pieces["document"])


class PackedCorpus:
    """The blocks of a corpus' split (``train`` or ``heldout``).

    A piece that crosses a block's border is two segments. With ``cross_document`` a block is one segment (the paper's
    training). The last token of a segment predicts nothing, and no loss is taken on filling.

    Raises:
        UserError: shards are missing, corrupt or of another shape than ``packing.json`` says.
    """

    def __init__(self, corpus: Path, split: str, cross_document: bool = False) -> None:
        packing = read_packing(corpus)
        self.path, self.cross_document, self._sizes = corpus, cross_document, packing[split]
        self.sequence_length, self.vocab_size = int(packing["sequence_length"]), int(packing["vocab_size"])
        paths = sorted((corpus / "shards").glob(f"{split}-*.tokens.npy"))
        self._shards = [_Shard.open(path, self.sequence_length) for path in paths]
        found = sum(len(shard.tokens) for shard in self._shards)
        if found != self._sizes["blocks"]:
            raise UserError(f"{corpus / 'shards'}: {found} {split} sequences, but packing.json says "
                            f"{self._sizes['blocks']}; build the corpus again")

    @cached_property
    def _first_block(self) -> np.ndarray:
        firsts: np.ndarray = np.cumsum([0, *(len(shard.tokens) for shard in self._shards)])
        return firsts

    def __len__(self) -> int:
        return int(self._first_block[-1])

    @property
    def num_tokens(self) -> int:
        return len(self) * self.sequence_length

    @property
    def tokens_per_byte(self) -> float:
        """Packed tokens for each byte of UTF-8 text, as the packing counted them."""
        return float(self._sizes["tokens"]) / max(1, int(self._sizes["bytes"]))

    def __getitem__(self, index: int) -> Block:
        number = int(np.searchsorted(self._first_block, index, "right")) - 1
        shard, row = self._shards[number], index - int(self._first_block[number])
        tokens = np.asarray(shard.tokens[row], dtype=np.int64)
        if tokens.max() >= self.vocab_size:
            raise UserError(f"{self.path}: sequence {index} holds token {tokens.max()}, the vocabulary has {self.vocab_size} "
                            "entries; build the corpus again")
        begin, end = row * self.sequence_length, (row + 1) * self.sequence_length
        first = int(np.searchsorted(shard.starts, begin, "right")) - 1
        last = int(np.searchsorted(shard.starts, end, "left"))
        starts = np.maximum(shard.starts[first:last], begin) - begin
        lengths: np.ndarray = np.diff(np.append(starts, self.sequence_length))
        documents = shard.documents[first:last].to_pylist()
        filling: np.ndarray = np.repeat([document == "" for document in documents], lengths)
        if self.cross_document:
            lengths = np.array([self.sequence_length])
        return Block(tokens, _next_tokens(tokens, lengths, filling), tuple(lengths.tolist()),
                     tuple(dict.fromkeys(document for document in documents if document)))


def _next_tokens(tokens: np.ndarray, lengths: np.ndarray, filling: np.ndarray) -> np.ndarray:
    """Labels: the next token, or `IGNORE` at a segment's end and before a filling token."""
    labels: np.ndarray = np.append(tokens[1:], IGNORE)
    labels[:-1][filling[1:]] = IGNORE
    labels[np.cumsum(lengths) - 1] = IGNORE
    return labels
