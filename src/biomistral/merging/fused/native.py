"""The loops as machine code, called with arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from biomistral.loops.native import Loops
from biomistral.merging.blocks import BLOCK
from biomistral.merging.floats import Float
from biomistral.merging.rows import address

SIGNATURES = {
    "peaks": "RiiI", "drift": "RiiiiFiF", "block_dots": "RiFiF", "linear": "RiFfviIF", "interpolate": "RffviI",
    "histogram": "vviiIiF", "draw": "BiiiiiF", "norms": "vviiIBiFiF", "add_task_vectors": "RiIIMIFFiffviIF"}
"""Arguments of every loop in `entries`, by `Loops`' letters."""

_SOURCES = ("entries", "measures", "sums", "thinning", "vectors", "drawing")
_LOOPS = Loops("biomistral.merging.fused.entries", SIGNATURES, [Path(__file__).parent / f"{name}.py" for name in _SOURCES])


def run(name: str, dtype: Float, *arguments: Any) -> int:
    """Run a loop over values of a type, without Python's lock; arrays are contiguous and stay where they are."""
    function = _LOOPS.function(name, dtype.value)
    return function(*[address(one) if isinstance(one, np.ndarray) else one for one in arguments])


def prepare(name: str, dtype: Float) -> None:
    """Have a loop compiled and loaded before it is needed."""
    _LOOPS.function(name, dtype.value)


def machine_code(name: str, dtype: Float) -> bytes:
    """An object file with one loop; made where it is not kept yet."""
    return _LOOPS.machine_code(name, dtype.value)


def spare(rows: int) -> np.ndarray:
    """Space for a loop to work in: rows of a block of float32 each."""
    found: np.ndarray = np.empty((rows, BLOCK), np.float32)
    return found
