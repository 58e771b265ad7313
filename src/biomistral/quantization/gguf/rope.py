"""Rotary embeddings as GGUF says them: a base, a kind of scaling with its numbers, or one factor a frequency."""

import math
from typing import Any

import torch
from torch import Tensor

from biomistral.errors import UserError
from biomistral.models.gguf_config import FACTORS, LONG, SHORT
from biomistral.models.gguf_rope import llama3_factors


def rope_of(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rope parameters of the layers that see everything, and of those that see a window (the same, or none of their own)."""
    rope = config.rope_parameters
    if "full_attention" in rope:
        return rope["full_attention"], rope.get("sliding_attention") or rope["full_attention"]
    return rope, rope


def rope_fields(config: Any, arch: str, rotated: int, where: object) -> dict[str, Any]:
    """The ``rope.*`` fields; ``rotated`` is how many numbers of a head are.

    Raises:
        UserError: llama.cpp does not know this scaling.
    """
    full, sliding = rope_of(config)
    fields: dict[str, Any] = {f"{arch}.rope.dimension_count": rotated, f"{arch}.rope.freq_base": float(full["rope_theta"])}
    if sliding is not full:
        fields[f"{arch}.rope.freq_base_swa"] = float(sliding["rope_theta"])
        if sliding.get("rope_type", "default") != "default":
            raise UserError(f"{where}: its layers with a sliding window scale their rotary embeddings ({sliding['rope_type']}); "
                            "llama.cpp does not, choose another --method")
    return fields | _scaling(full, f"{arch}.rope.scaling", config, where)


def _scaling(rope: dict[str, Any], key: str, config: Any, where: object) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):  # llama3's is a factor a frequency, a tensor
        return {}
    if kind == "linear":
        return {f"{key}.type": "linear", f"{key}.factor": float(rope["factor"])}
    if kind == "yarn":
        return _yarn(rope, key, config, where)
    if kind == "longrope" and config.model_type == "phi3":
        original = rope["original_max_position_embeddings"]
        return {f"{key}.type": "longrope", f"{key}.original_context_length": original,
                f"{key}.attn_factor": _longrope_attention(rope, config.max_position_embeddings / original)}
    raise UserError(f"{where}: scales its rotary embeddings by '{kind}', for which GGUF has no words for architecture "
                    f"'{config.model_type}'; choose another --method")


def _yarn(rope: dict[str, Any], key: str, config: Any, where: object) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071) as llama.cpp computes it: attention scaled by 1 + 0.1 ln(factor), blends cut to whole numbers."""
    factor = float(rope["factor"])
    other = [name for name in ("mscale", "mscale_all_dim") if rope.get(name)]
    attention = rope.get("attention_factor")
    if attention is not None and not math.isclose(attention, 1 + 0.1 * math.log(factor), rel_tol=1e-4):
        other.append("attention_factor")
    if rope.get("truncate", True) is not True:
        other.append("truncate")
    if other:
        raise UserError(f"{where}: scales its rotary embeddings by YaRN with '{other[0]}' {rope[other[0]]}, which llama.cpp does "
                        "not compute with; choose another --method")
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    turns = {"fast": float(rope.get("beta_fast") or 32), "slow": float(rope.get("beta_slow") or 1)}
    return {f"{key}.type": "yarn", f"{key}.factor": factor, f"{key}.original_context_length": original,
            **{f"{key}.yarn_beta_{name}": value for name, value in turns.items()}}


def _longrope_attention(rope: dict[str, Any], extension: float) -> float:
    """LongRoPE's factor of attention (arXiv 2402.13753, section 3.4), from by how much the context was extended."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = rope.get("factor") or extension
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(rope["original_max_position_embeddings"]))


def rope_tensors(config: Any, rotated: int) -> dict[str, Tensor]:
    """What llama.cpp divides frequencies by, (rotated / 2) float32 each: Llama 3's factors, LongRoPE's long and short ones."""
    rope, _ = rope_of(config)
    kind = rope.get("rope_type", "default")
    if kind == "llama3":
        return {FACTORS: llama3_factors(rope, rotated)}
    if kind == "longrope":
        return {name: torch.tensor(rope[key], dtype=torch.float32)
                for name, key in ((LONG, "long_factor"), (SHORT, "short_factor"))}
    return {}
