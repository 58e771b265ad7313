"""A quantised model beside its 16-bit original on the same text: next-token distributions, and each layer's output."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.quantization.measure.hidden import Readout, hidden_states, open_streamed
from biomistral.quantization.report import compare, relative_error


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
    summary = compare((exact, rounded), zip(final, rounded_final, strict=True), sequences.to(device))
    errors = [{"hidden_error": relative_error(before, after)}
              for before, after in zip(layers, rounded_layers, strict=True)] if len(layers) == len(rounded_layers) else []
    return {**summary, "layers": errors}
