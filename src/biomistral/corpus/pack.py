"""Concatenate pieces and cut them into blocks of ``sequence_length`` tokens: no padding, the border of each piece kept."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from biomistral.corpus.pieces import Packer
from biomistral.corpus.select import TokenStore
from biomistral.records import write_table

SHARD_TOKENS = 1 << 27
PIECES_SCHEMA = pa.schema([("start", pa.int64()), ("length", pa.int32()), ("document", pa.string())])


@dataclass
class Split:
    """What one split holds. ``tokens`` counts those of documents in its blocks, ``bytes`` their text's UTF-8 size."""

    blocks: int = 0
    tokens: int = 0
    pieces: int = 0
    documents: int = 0
    bytes: int = 0
    waste: int = 0
    """Tokens of a short last block, which is not written; or EOS that fill the only block."""
    sequences_unpacked: int = 0
    """Sequences the same pieces would take one by one."""


def pack(folder: Path, name: str, order: list[tuple[int, str]], store: TokenStore, packer: Packer,
         sequence_length: int) -> dict[str, Any]:
    """Write one split's shards, documents in the given order (index in the store, id); no file if there are none."""
    total = sum(sum(store.lengths[index]) for index, _ in order)
    split = Split(blocks=total // sequence_length or min(1, total))
    if split.blocks:
        folder.mkdir(exist_ok=True)
        _Writer(folder, name, packer, sequence_length, split).write(order, store)
        split.waste = abs(total - split.blocks * sequence_length)
    unpacked = max(1, split.sequences_unpacked)
    return {**asdict(split), "reduction": round(1 - split.blocks / unpacked, 6) if split.blocks else 0.0}


class _Writer:
    def __init__(self, folder: Path, name: str, packer: Packer, sequence_length: int, split: Split) -> None:
        self._folder, self._name, self._packer, self._split = folder, name, packer, split
        self._sequence_length = sequence_length
        self._blocks_a_shard = max(1, SHARD_TOKENS // sequence_length)

    def write(self, order: list[tuple[int, str]], store: TokenStore) -> None:
        """Fill shard after shard; a piece that meets a shard's end goes on in the next one as a piece of its own."""
        pieces = self._pieces(order, store)
        rest: tuple[npt.NDArray[np.uint32], str] | None = None
        for number, first in enumerate(range(0, self._split.blocks, self._blocks_a_shard)):
            blocks = min(self._blocks_a_shard, self._split.blocks - first)
            rest = self._shard(number, blocks, pieces, rest)

    def _pieces(self, order: list[tuple[int, str]], store: TokenStore) -> Iterator[tuple[npt.NDArray[np.uint32], str]]:
        """Tokens and document of every piece that begins inside the blocks, with the split's numbers counted."""
        tokens, room = store.tokens(), self._split.blocks * self._sequence_length
        for index, name in order:
            start = store.offsets[index]
            for number, (length, num_bytes) in enumerate(zip(store.lengths[index], store.num_bytes[index], strict=True)):
                if room <= 0:
                    return
                piece = tokens[start:start + min(length, room)]
                self._split.bytes += num_bytes if len(piece) == length else self._packer.num_bytes(piece)
                self._split.sequences_unpacked += -(-length // self._sequence_length)
                self._split.documents += number == 0
                self._split.tokens += len(piece)
                yield piece, name
                start += length
                room -= length

    def _shard(self, number: int, blocks: int, pieces: Iterator[tuple[npt.NDArray[np.uint32], str]],
               rest: tuple[npt.NDArray[np.uint32], str] | None) -> tuple[npt.NDArray[np.uint32], str] | None:
        path = self._folder / f"{self._name}-{number:05d}.tokens.npy"
        temporary = path.with_name(f".{path.name}.tmp")
        shard = np.lib.format.open_memmap(temporary, "w+", np.dtype(self._packer.dtype), (blocks, self._sequence_length))
        flat, at, rows = shard.reshape(-1), 0, []
        while at < flat.size:
            piece, name = rest or next(pieces, None) or (np.full(flat.size - at, self._packer.filler, np.uint32), "")
            here, left = piece[:flat.size - at], piece[flat.size - at:]
            flat[at:at + len(here)] = here
            rows.append({"start": at, "length": len(here), "document": name})
            at += len(here)
            rest = (left, name) if len(left) else None
        shard.flush()
        del shard, flat
        temporary.replace(path)
        self._split.pieces += len(rows)
        write_table(self._folder / f"{self._name}-{number:05d}.pieces.parquet", rows, PIECES_SCHEMA)
        return rest
