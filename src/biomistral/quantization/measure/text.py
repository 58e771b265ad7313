"""A quantised model beside its 16-bit original on the same text: next-token distributions, and each layer's output."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.quantization.measure.hidden import Readout, hidden_states, open_streamed
from biomistral.quantization.report import ROWS, Comparison, relative_error


def compare_text(reference: Path, quantized: PreTrainedModel, sequences: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """`Comparison.summary` over sequences (count, T), and by layer the share of its output's energy that is error.

    The original is read layer by layer. Afterwards ``quantized`` is of no more use: its layers are let go.
    """
    device = quantized.device
    original = open_streamed(reference, dtype, device)
    layers, final = hidden_states(original, sequences)
    exact = Readout(original)
    rounded_layers, rounded_final = hidden_states(quantized, sequences)
    rounded = Readout(quantized)
    comparison = Comparison()
    for one, other, tokens in zip(final, rounded_final, sequences.to(device), strict=True):
        for start in range(0, len(tokens) - 1, ROWS):
            rows = slice(start, min(start + ROWS, len(tokens) - 1))
            comparison.add(exact(one[rows]), rounded(other[rows]), tokens[rows.start + 1:rows.stop + 1])
    errors = [{"hidden_error": relative_error(before, after)}
              for before, after in zip(layers, rounded_layers, strict=True)] if len(layers) == len(rounded_layers) else []
    return {**comparison.summary(), "layers": errors}
