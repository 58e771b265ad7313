"""The lengths of the segments in a row of tokens, and what a kernel for several lengths asks of them."""

from itertools import accumulate

import torch
from torch import Tensor


class Segments:
    """Lengths, in tokens, of what a row is made of. One object for all layers of a forward pass.

    An object rather than a list: a compiled layer hands it on without looking inside, where it would be compiled again for
    every new list of lengths.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self._borders: dict[torch.device, Tensor] = {}

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def borders(self, device: torch.device) -> Tensor:
        """Where segments begin, and where the last one ends: (number + 1,), int32. Copied to a device once."""
        if device not in self._borders:
            self._borders[device] = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32).to(device)
        return self._borders[device]
