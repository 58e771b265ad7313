"""Activations that flow through a model one decoder layer at a time, and what the searches need to know of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from biomistral.errors import UserError
from biomistral.quantization.calibrated.awq import fast_products
from biomistral.quantization.calibrated.dataflow import hidden_of
from biomistral.quantization.calibrated.streams import Stream

_GRAM_BLOCK = 768  # columns of X'X made at a time; what lies below the diagonal's blocks is copied from above


class Recorder(nn.Module):  # type: ignore[misc]
    """Stands where a decoder layer is, notes how the model calls it, and passes the hidden states on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)
        self.call: dict[str, Any] = {}
        self.given: Tensor | None = None

    def forward(self, hidden_states: Tensor, **call: Any) -> Tensor:
        self.call, self.given = call, hidden_states
        return hidden_states


class Giver(nn.Module):  # type: ignore[misc]
    """Stands where the decoder layers are and gives the hidden states that they would have given."""

    def __init__(self, layer: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.attention_type, self.hidden = getattr(layer, "attention_type", None), hidden

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return self.hidden


@contextmanager
def standing_in(decoder: nn.Module, name: str, others: Sequence[nn.Module]) -> Iterator[None]:
    """Other modules in the place of the decoder's layers, ``decoder.<name>``."""
    layers = getattr(decoder, name)
    setattr(decoder, name, nn.ModuleList(others))
    try:
        yield
    finally:
        setattr(decoder, name, layers)


def first_hidden(decoder: nn.Module, name: str, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """What enters the first layer, (1, T, hidden), of tokens (1, T), and the arguments with which each layer is called.

    Only what stands around the layers needs its weights: masks and rotary embeddings come from the model's own forward.
    """
    recorders = [Recorder(layer) for layer in getattr(decoder, name)]
    with standing_in(decoder, name, recorders), torch.inference_mode():
        decoder(input_ids=tokens, use_cache=False)
    assert recorders[0].given is not None
    return recorders[0].given, [recorder.call for recorder in recorders]


def run_layer(layer: nn.Module, call: dict[str, Any], before: Stream, after: Stream, what: str) -> None:
    """Put each sequence's hidden states after the layer into ``after``, which may be ``before`` itself.

    Raises:
        UserError: they are no longer finite; ``what`` names the layer.
    """
    with torch.inference_mode():
        for index in range(len(before)):
            states = hidden_of(layer(before[index], **call))
            if not bool(torch.isfinite(states).all()):
                raise UserError(f"{what}: its activations hold NaN or infinite values; the weights are damaged, or its dtype "
                                "is too narrow for them")
            after[index] = states


class Statistics:
    """Of the inputs X (T, K) of a linear layer: X'X, the sum of |x| by input, and the number of rows; float32."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._gram = torch.zeros(inputs, inputs, device=device)
        self._magnitude = torch.zeros(inputs, device=device)
        self._mirrored = True
        self.rows = 0

    def add(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        with fast_products() if x.dtype == torch.bfloat16 else nullcontext():  # float32 inputs would lose by it
            for start in range(0, rows.shape[1], _GRAM_BLOCK):
                part = rows[:, start:start + _GRAM_BLOCK]
                self._gram[start:start + _GRAM_BLOCK, start:].addmm_(part.T, rows[:, start:])
        self._magnitude += rows.abs().sum(0)
        self.rows += rows.shape[0]
        self._mirrored = False

    @property
    def gram(self) -> Tensor:
        """X'X, (K, K)."""
        if not self._mirrored:
            for start in range(_GRAM_BLOCK, self._gram.shape[0], _GRAM_BLOCK):
                self._gram[start:start + _GRAM_BLOCK, :start] = self._gram[:start, start:start + _GRAM_BLOCK].T
            self._mirrored = True
        return self._gram

    @property
    def mean(self) -> Tensor:
        """Mean of |x| by input, (K,)."""
        return self._magnitude / self.rows


@contextmanager
def watch(layer: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Statistics]]:
    """While the layer runs, collect the statistics of the inputs of its linear layers ``names``."""
    found: dict[str, Statistics] = {}
    handles = []
    for name in names:
        linear = layer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        found[name] = Statistics(linear.in_features, linear.weight.device)
        handles.append(linear.register_forward_pre_hook(
            lambda _, arguments, statistics=found[name]: statistics.add(arguments[0])))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
