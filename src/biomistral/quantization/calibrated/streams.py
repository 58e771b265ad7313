"""Hidden states of many sequences between two decoder layers: in memory, or in a file where they are large."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from biomistral.limits import available_memory_bytes

_SHARE = 8  # a stream of over an eighth of the memory left goes to disk: two or three flow at a time, beside a layer


class Stream(Protocol):
    """A sequence of tensors (1, T, hidden) that can be replaced one by one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...

    def __getitem__(self, index: int) -> Tensor: ...

    def __setitem__(self, index: int, states: Tensor) -> None: ...


class OnDisk:
    """Tensors of one shape in a file: one is in memory at a time."""

    def __init__(self, path: Path, like: Tensor, count: int) -> None:
        self._path, self._count = path, count
        self._like = torch.empty_like(like, device="meta")
        self._device = like.device
        self._bytes = int(like.numel() * like.element_size())
        with path.open("wb") as stream:
            stream.truncate(count * self._bytes)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> Tensor:
        with self._path.open("rb") as stream:
            stream.seek(self._place(index))
            data = bytearray(stream.read(self._bytes))
        return torch.frombuffer(data, dtype=self._like.dtype).view(self._like.shape).to(self._device)

    def __setitem__(self, index: int, states: Tensor) -> None:
        with self._path.open("r+b") as stream:
            stream.seek(self._place(index))
            stream.write(memoryview(states.contiguous().cpu().view(torch.uint8).numpy()))

    def _place(self, index: int) -> int:
        assert 0 <= index < self._count
        return index * self._bytes


def keep(states: Sequence[Tensor] | Iterator[Tensor], count: int, path: Path, limit: int | None = None) -> Stream:
    """The tensors, ``count`` of one shape, in memory, or in a file at ``path`` if they take more than ``limit`` bytes.

    Where they lie changes no bit. Without a limit it is an eighth of the memory that this process may still take.
    """
    limit = available_memory_bytes() // _SHARE if limit is None else limit
    found: Stream | None = None
    for index, tensor in enumerate(states):
        if found is None:
            needed = count * tensor.numel() * tensor.element_size()
            found = OnDisk(path, tensor, count) if needed > limit else [tensor] * count
        found[index] = tensor
    assert found is not None
    return found
