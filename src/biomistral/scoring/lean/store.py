"""Keys and values of every layer, a row a token, shape ``(layers, tokens, heads * width)``."""

import torch
from torch import Tensor


class Store:
    """Rows of all layers; ``used`` of them hold something. Who writes past the end makes room first.

    ``pending``: tokens that its rows are made for, to be computed by the next pass that goes on from them.
    """

    def __init__(self, layers: int, rows: int, width: int) -> None:
        self.keys = torch.empty(layers, rows, width, dtype=torch.bfloat16)
        self.values = torch.empty_like(self.keys)
        self.used = 0
        self.pending: tuple[int, ...] = ()

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, ``(rows, width)``."""
        return self.keys[index], self.values[index]

    def with_room(self, rows: int) -> "Store":
        """A copy that has room for more rows."""
        layers, _, width = self.keys.shape
        grown = Store(layers, self.used + rows, width)
        grown.keys[:, :self.used], grown.values[:, :self.used] = self.keys[:, :self.used], self.values[:, :self.used]
        grown.used = self.used
        return grown


    def settle(self, other: "Store | PassingStore") -> None:
        """Take what was pending from the rows that ``other`` now begins with."""
        count = len(self.pending)
        if not count:
            return
        if isinstance(other, Store):
            self.keys[:, :count], self.values[:, :count] = other.keys[:, :count], other.values[:, :count]
        else:
            other.give_back()
        self.used, self.pending = self.used + count, ()


class PassingStore:
    """Rows of one layer at a time, behind those of another store: what nothing continues need not be kept (1 MB, not 30)."""

    def __init__(self, past: Store, rows: int) -> None:
        """``rows``: besides those that are pending, which the past is given layer by layer."""
        self.past, self.used, self._index = past, past.used, -1
        self._keys = torch.empty(past.used + len(past.pending) + rows, past.keys.shape[2], dtype=torch.bfloat16)
        self._values = torch.empty_like(self._keys)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """The same rows for every layer, which begin with the past of this one."""
        if self._index >= 0:
            self.give_back()
        self._index = index
        self._keys[:self.used], self._values[:self.used] = (part[:self.used] for part in self.past.layer(index))
        return self._keys, self._values

    def give_back(self) -> None:
        """Put the pending rows of the last layer where they belong."""
        count = len(self.past.pending)
        keys, values = self.past.layer(self._index)
        keys[:count], values[:count] = self._keys[:count], self._values[:count]
