"""The loops as machine code, called with tensors."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomistral.loops.native import Loops, has_feature

SIGNATURES = {"normalise": "vviFifviF", "gate": "viivi", "place": "viiiiFFiFFifvvvF"}
SIGNATURES |= dict.fromkeys(("attend_by_tiles", "attend_by_loops"), "vvviviIiIIIiiiiiifiF")
SIGNATURES |= dict.fromkeys(("weigh_4", "weigh_8"), "BFFiiiiiiv")
SIGNATURES["multiply_rows"] = "viiviFiiF"
"""Arguments of every loop in `entries`, by `Loops`' letters."""

_SOURCES = ("entries", "attention", "pointwise", "products", "weights")
_LOOPS = Loops("biomistral.scoring.lean.entries", SIGNATURES, [Path(__file__).parent / f"{name}.py" for name in _SOURCES])


def run(name: str, *arguments: Any) -> int:
    """Run a loop over bfloat16, without Python's lock; tensors are contiguous and stay where they are."""
    return loop(name)(*[one.data_ptr() if isinstance(one, Tensor) else one for one in arguments])


@cache
def loop(name: str) -> Callable[..., int]:
    return _LOOPS.function(name, "bfloat16")


def code_key() -> str:
    """Of everything that the loops' machine code depends on."""
    return _LOOPS.key()


@cache
def has_tiles() -> bool:
    """Whether products can be had from AMX: the processor has it, the system lets this process use it, and oneDNN was not told by
    ``ONEDNN_MAX_CPU_ISA`` to do without."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    wanted = "AMX" in most or most in ("ALL", "DEFAULT")
    return wanted and has_feature("amx-bf16") and has_feature("amx-tile") and bool(torch.cpu._init_amx())


def attention_space(room: int, width: int) -> int:
    """Float32s that attention works in, for sequences of up to ``room`` keys: columns, pairs, scores, weights, sums, result,
    tile layout."""
    across = (width + 63) // 64 * 64
    return width * room + 64 + 16 * room + 8 * (room + 16) + 16 + 16 * across + 16
