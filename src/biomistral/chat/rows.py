"""Keys and values of several sequences side by side: each ends at the right edge, shorter ones are padded on the left."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel


class Rows:
    """The sequences that are continued together. Padding is masked; a row's positions are its own."""

    def __init__(self) -> None:
        self._cache: DynamicCache | None = None
        self._own: DynamicCache | None = None
        self._lengths: list[int] = []

    def prompt(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """Compute a prompt ``(1, tokens)`` alone: logits ``(reads, vocabulary)`` where the head reads. `join` takes it in."""
        self._own = DynamicCache()
        out = model(input_ids=ids, past_key_values=self._own, use_cache=True)
        return torch.as_tensor(out.logits)[0]

    def join(self, length: int) -> None:
        """Put the prompt computed last beside the others."""
        assert self._own is not None
        own, self._own = self._own, None
        if self._cache is None:
            self._cache = own
        else:
            width = max(*self._lengths, length)
            for mine, new in zip(self._cache.layers, own.layers, strict=True):
                mine.keys = torch.cat([_widened(mine.keys, width), _widened(new.keys, width)])
                mine.values = torch.cat([_widened(mine.values, width), _widened(new.values, width)])
        self._lengths.append(length)

    def step(self, model: PreTrainedModel, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Logits ``(rows, vocabulary)`` after one more token of each row, whose place is its length."""
        assert self._cache is not None
        assert list(lengths) == self._lengths
        device, width = model.device, max(self._lengths)
        long = torch.tensor(self._lengths, device=device)
        mask = (torch.arange(width + 1, device=device) >= width - long[:, None]).long()
        out = model(input_ids=torch.tensor(tokens, device=device)[:, None], attention_mask=mask, position_ids=long[:, None],
                    past_key_values=self._cache, use_cache=True)
        self._lengths = [length + 1 for length in self._lengths]
        return torch.as_tensor(out.logits)[0]

    def keep(self, places: Sequence[int]) -> None:
        """Keep these rows alone, without padding that none of them needs."""
        self._lengths = [self._lengths[place] for place in places]
        if not places:
            self._cache = None
            return
        assert self._cache is not None
        width = max(self._lengths)
        for layer in self._cache.layers:
            layer.keys = layer.keys[list(places), :, -width:]
            layer.values = layer.values[list(places), :, -width:]


def _widened(states: Tensor, width: int) -> Tensor:
    """``(rows, heads, tokens, dimensions)`` with as many tokens as asked for, the new ones zeros on the left."""
    return functional.pad(states, (0, 0, width - states.shape[2], 0))
