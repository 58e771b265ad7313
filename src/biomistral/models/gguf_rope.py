"""Llama 3's rotary scaling, there and back: in a GGUF file it is one factor a frequency, in transformers four numbers."""

import math
from typing import Any

import torch
from torch import Tensor

_LOW, _HIGH = 1.0, 4.0
"""Turns within the original context between which frequencies are blended, the same in every Llama since 3.1."""


def llama3_factors(rope: dict[str, Any], rotated: int) -> Tensor:
    """What frequencies are divided by, (rotated / 2) float32: slow ones by the factor, fast ones by 1, a blend between."""
    turns = rope["original_max_position_embeddings"] * _frequencies(rope["rope_theta"], rotated) / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    fast = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - fast) / rope["factor"] + fast)).float()


def rope_of_factors(factors: Tensor, theta: float, context: int) -> dict[str, Any]:
    """The rope parameters of a model whose frequencies are divided by ``factors`` (rotated / 2).

    Llama 3's four numbers where they give these factors, else the factors themselves as LongRoPE's, short and long the same.
    """
    rotated, slowest = 2 * len(factors), float(factors.max())
    kept = {"rope_theta": theta, "factor": slowest, "low_freq_factor": _LOW, "high_freq_factor": _HIGH}
    blended = ((factors > 1.001) & (factors < 0.999 * slowest)).nonzero()[:, 0]
    if len(blended):
        place = blended[0]
        fast = (1 / factors[place].double() - 1 / slowest) / (1 - 1 / slowest)
        original = 2 * math.pi * (_LOW + fast * (_HIGH - _LOW)) / _frequencies(theta, rotated)[place]
        rope = {**kept, "rope_type": "llama3", "original_max_position_embeddings": round(float(original))}
        if torch.allclose(llama3_factors(rope, rotated), factors, rtol=1e-5):
            return rope
    listed = factors.tolist()
    return {"rope_type": "longrope", "rope_theta": theta, "short_factor": listed, "long_factor": listed, "attention_factor": 1.0,
            "original_max_position_embeddings": context}


def _frequencies(theta: float, rotated: int) -> Tensor:
    return 1 / theta ** (torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
