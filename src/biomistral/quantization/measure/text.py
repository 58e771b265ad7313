"""A quantised model beside its 16-bit original on the same text: next-token distributions, and each layer's output."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.quantization.measure.hidden import Readout, decoder_layers, final_hidden, open_streamed
from biomistral.quantization.report import compare, squared_error


def compare_text(reference: Path, quantized: PreTrainedModel, sequences: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """`Comparison.summary` over sequences (count, T), and by layer the share of its output's energy that is error.

    One sequence at a time, the original read layer by layer for each: besides the quantised model there is in memory one layer,
    one sequence's states after every layer, and a few rows of logits.
    """
    both = _Both(open_streamed(reference, dtype, quantized.device), quantized)
    readers = Readout(both.original), Readout(quantized)
    summary = compare(readers, both.finals(sequences), sequences.to(quantized.device))
    return {**summary, "layers": [{"hidden_error": change / energy}
                                  for change, energy in zip(both.change, both.energy, strict=True)]}


@dataclass
class _Both:
    """Two models that read the same sequences, and by layer what has been summed up of their outputs."""

    original: PreTrainedModel
    quantized: PreTrainedModel
    change: list[float] = field(default_factory=list)
    """||b - a||^2 of each layer so far, nothing where the two have different layers."""
    energy: list[float] = field(default_factory=list)
    """||a||^2 of each layer so far."""

    def __post_init__(self) -> None:
        mine, theirs = (len(decoder_layers(model)) for model in (self.original, self.quantized))
        self.change, self.energy = ([0.0] * (mine if mine == theirs else 0) for _ in range(2))

    def finals(self, sequences: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The final hidden states (T, hidden) in both models of each sequence (T,)."""
        outputs: dict[int, Tensor] = {}  # the same memory for every sequence
        for tokens in sequences:
            final = final_hidden(self.original, tokens, lambda index, output: _keep(outputs, index, output))
            yield final, final_hidden(self.quantized, tokens, lambda index, output: self._add(outputs, index, output))

    def _add(self, outputs: dict[int, Tensor], index: int, rounded: Tensor) -> None:
        if self.change:
            change, energy = squared_error(outputs[index], rounded)
            self.change[index] += change
            self.energy[index] += energy


def _keep(outputs: dict[int, Tensor], index: int, output: Tensor) -> None:
    if index in outputs:
        outputs[index].copy_(output)
    else:
        outputs[index] = output.clone()
