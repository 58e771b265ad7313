"""Put pieces into blocks of ``sequence_length`` tokens, the border of each piece kept: concatenated, or by best fit."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.corpus.ledger import Ledger
from biomistral.corpus.packing.pieces import Packer
from biomistral.corpus.packing.token_store import Tokens, TokenStore
from biomistral.progress import track

SHARD_TOKENS = 1 << 27
PIECES_SCHEMA = pa.schema([("start", pa.int64()), ("length", pa.int32()), ("document", pa.string())])
FILLER = -1
"""The document of tokens that only fill room."""

Run: TypeAlias = tuple[Tokens, int]
"""Tokens that lie side by side, and the index of their document."""


@dataclass
class Split:
    """What one split holds. ``tokens`` counts those of documents in its blocks, ``bytes`` their text's UTF-8 size."""

    blocks: int = 0
    tokens: int = 0
    pieces: int = 0
    documents: int = 0
    bytes: int = 0
    waste: int = 0
    """Tokens of a short last block, which is not written; or EOS that fill room."""
    sequences_unpacked: int = 0
    """Sequences the same pieces would take one by one."""
    cut: int = 0
    """Pieces that a block's border cuts."""


def pack(folder: Path, name: str, order: npt.NDArray[np.int64], ledger: Ledger, store: TokenStore, packer: Packer,
         sequence_length: int, method: Literal["concatenate", "best_fit"]) -> dict[str, Any]:
    """Write one split's shards, documents in the given order; no file if there are none."""
    split = Split()
    writer = _Writer(folder, name, ledger, packer, sequence_length, split)
    room = SHARD_TOKENS // sequence_length * sequence_length or sequence_length
    runs = _runs(order, store, split)
    if method == "best_fit":
        _best_fit(writer, runs, room, sequence_length, packer.filler)
    else:
        total = int(ledger.tokens[order].sum())
        _concatenate(writer, runs, total, room, sequence_length, packer)
    reduction = round(1 - split.blocks / max(1, split.sequences_unpacked), 6) if split.blocks else 0.0
    return {**asdict(split), "reduction": reduction}


def _runs(order: npt.NDArray[np.int64], store: TokenStore, split: Split) -> Iterator[tuple[Tokens, int, int]]:
    """Tokens, document and UTF-8 bytes of every piece, counted as it is taken."""
    for index in track(order.tolist(), "packing", len(order)):
        split.documents += 1
        for tokens, num_bytes in store.document(index):
            yield tokens, index, num_bytes


def _concatenate(writer: "_Writer", pieces: Iterable[tuple[Tokens, int, int]], total: int, room: int, sequence_length: int,
                 packer: Packer) -> None:
    """Piece after piece; a short last block is left out, unless it is the only one: then it is filled."""
    split = writer.split
    left = max(total // sequence_length, min(1, total)) * sequence_length
    split.waste = abs(total - left)
    shard: list[Run] = []
    size = 0
    for tokens, index, num_bytes in pieces:
        here = tokens[:left]
        split.bytes += num_bytes if len(here) == len(tokens) else packer.num_bytes(here)
        split.sequences_unpacked += -(-len(tokens) // sequence_length)
        left -= len(here)
        while size + len(here) >= room:
            shard.append((here[:room - size], index))
            here = here[room - size:]
            writer.shard(shard, room)
            shard, size = [], 0
        if len(here):
            shard.append((here, index))
            size += len(here)
        if not left:  # what follows fills no block: its documents are in none
            break
    filled = -(-size // sequence_length) * sequence_length
    if size:
        writer.shard([*shard, _filler(packer, filled - size)], filled)


def _filler(packer: Packer, size: int) -> Run:
    return np.full(size, packer.filler, np.dtype(packer.dtype)), FILLER


def _best_fit(writer: "_Writer", pieces: Iterable[tuple[Tokens, int, int]], room: int, sequence_length: int, eos: int) -> None:
    """No piece that fits a block is cut: each goes where least room is left (Ding et al. 2024), a shard's worth at a time."""
    split = writer.split
    window: list[Run] = []
    size = 0
    for tokens, index, num_bytes in pieces:
        split.bytes += num_bytes
        split.sequences_unpacked += -(-len(tokens) // sequence_length)
        window += [(tokens[start:start + sequence_length], index) for start in range(0, len(tokens), sequence_length)]
        size += len(tokens)
        if size >= room:
            _write_bins(writer, window, sequence_length, eos)
            window, size = [], 0
    if window:
        _write_bins(writer, window, sequence_length, eos)


def _write_bins(writer: "_Writer", window: list[Run], sequence_length: int, eos: int) -> None:
    bins = best_fit([len(tokens) for tokens, _ in window], sequence_length)
    runs: list[Run] = []
    for chosen in bins:
        runs += [window[number] for number in chosen]
        room = sequence_length - sum(len(window[number][0]) for number in chosen)
        if room:
            writer.split.waste += room
            runs.append((np.full(room, eos, window[0][0].dtype), FILLER))
    writer.shard(runs, len(bins) * sequence_length)


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the items of each bin, in their own order; bins in the order of their first items.

    Lengths are whole numbers up to ``capacity``, so the bins with some room left are one list, the rooms in use the bits
    of one number, and the smallest room that suffices its lowest bit: about a microsecond an item.
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for item in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[item]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        if room > length:
            by_room[room - length].append(chosen)
            rooms |= 1 << (room - length)
    return sorted(sorted(items) for items in bins)


class _Writer:
    """Writes shards: tokens as a memory-mapped array, pieces as a table."""

    def __init__(self, folder: Path, name: str, ledger: Ledger, packer: Packer, sequence_length: int, split: Split) -> None:
        self.split = split
        self._folder, self._name, self._ledger, self._sequence_length = folder, name, ledger, sequence_length
        self._dtype = np.dtype(packer.dtype)
        self._number = 0

    def shard(self, runs: list[Run], size: int) -> None:
        """Write the next shard of ``size`` tokens, which the runs fill."""
        runs = [run for run in runs if len(run[0])]
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._name}-{self._number:05d}.tokens.npy"
        temporary = path.with_name(f".{path.name}.tmp")
        blocks = np.lib.format.open_memmap(temporary, "w+", self._dtype, (size // self._sequence_length, self._sequence_length))
        flat = blocks.reshape(-1)
        lengths: npt.NDArray[np.int64] = np.array([len(tokens) for tokens, _ in runs], np.int64)
        borders = np.concatenate(([0], np.cumsum(lengths)))
        assert borders[-1] == size
        for (tokens, _), (start, end) in zip(runs, pairwise(borders.tolist()), strict=True):
            flat[start:end] = tokens
        blocks.flush()
        del blocks, flat
        temporary.replace(path)
        self._write_pieces(borders[:-1], lengths, np.array([index for _, index in runs], np.int64))
        self._count(borders[:-1], lengths, np.array([index for _, index in runs], np.int64), size)
        self._number += 1

    def _write_pieces(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64],
                      documents: npt.NDArray[np.int64]) -> None:
        real = iter(self._ledger.ids(documents[documents != FILLER]))
        names = ["" if index == FILLER else next(real) for index in documents.tolist()]
        table = pa.table([starts, lengths.astype(np.int32), pa.array(names, pa.string())], schema=PIECES_SCHEMA)
        path = self._folder / f"{self._name}-{self._number:05d}.pieces.parquet"
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)

    def _count(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], documents: npt.NDArray[np.int64],
               size: int) -> None:
        real = documents != FILLER
        self.split.pieces += int(real.sum())
        self.split.blocks += size // self._sequence_length
        self.split.tokens += int(lengths[real].sum())
        ends = starts + lengths - 1
        self.split.cut += int((starts[real] // self._sequence_length != ends[real] // self._sequence_length).sum())
