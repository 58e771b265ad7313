"""Integers back to weights on a CPU, (q - z) * s: 0.07 to 0.18 ns a weight on one core, where PyTorch's own operations take 0.9.

A product of 576 rows takes 1.05 ns a weight. In a model, whose integers come from memory, dequantising takes 0.4. Weights that
are written where the last layer's were lie in the processor's cache when the product reads them, which gains a part of that:
16-bit weights come from memory each time.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from threading import get_ident

import torch
from torch import Tensor

from biomistral.loops.native import STORED, Loops, has_feature
from biomistral.loops.sharing import share

_LOOPS = Loops("biomistral.models.quantized.loops", {**dict.fromkeys(("low", "high", "whole"), "BBFviii"),
                                                     "looked_up": "BBFviiiiv"}, [Path(__file__).with_name("loops.py")])
_NAMES = {None: "whole", 0: "low", 4: "high"}
_LOOKED_UP = 32
"""Weights of a group that are looked up at once."""
_WEIGHTS_AT_ONCE = 1 << 19
"""A thread's, at least: 0.08 ms of work. Also how many are converted at a time to a type that the loops do not write."""


class Scratch:
    """Memory that a model's layers use one after the other: as much as the largest asks for, by purpose and thread."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, int], Tensor] = {}

    def take(self, purpose: str, dtype: torch.dtype, size: int) -> Tensor:
        """A tensor (size,) of any values on the CPU; what was last taken for this is lost."""
        key = (purpose, dtype, get_ident())
        if key not in self._buffers or self._buffers[key].numel() < size:
            with torch.inference_mode(False):  # what is made in it can be written in it only
                self._buffers[key] = torch.empty(size, dtype=dtype)
        return self._buffers[key][:size]


def dequantise_cpu(scratch: Scratch, stored: Tensor, shift: int | None, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    """Write (q - z) * s into ``out`` (N, K), computed in float32 and rounded once.

    ``stored`` uint8 (N, K) holds the integers or, where ``shift`` is 0 or 4, in the four bits from there on; ``zeros`` uint8
    and ``scales``: (N, K/g). All contiguous.
    """
    assert all(tensor.is_contiguous() for tensor in (stored, zeros, scales, out))
    name = str(out.dtype).removeprefix("torch.")
    exact = scales.float()
    if name not in STORED:
        most = max(1, _WEIGHTS_AT_ONCE // out.shape[1])
        for rows in (slice(start, start + most) for start in range(0, len(out), most)):
            floats = scratch.take("floats", torch.float32, out[rows].numel()).view(out[rows].shape)
            dequantise_cpu(scratch, stored[rows], shift, zeros[rows], exact[rows], floats)
            out[rows].copy_(floats)
        return
    run = partial(_run, _LOOPS.function(_NAMES[shift], name))
    if shift is not None and name == "bfloat16" and stored.shape[1] // zeros.shape[1] % _LOOKED_UP == 0 and _looks_up():
        run = partial(_run_by_tables, shift)

    def work(first: int, last: int) -> None:
        rows = slice(first, last)
        run(stored[rows], zeros[rows], exact[rows], out[rows])

    share(len(out), -(-_WEIGHTS_AT_ONCE // out.shape[1]), work)


def _run(loop: Callable[..., int], stored: Tensor, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    loop(*(tensor.data_ptr() for tensor in (stored, zeros, scales, out)), *stored.shape, zeros.shape[1])


def _run_by_tables(shift: int, stored: Tensor, zeros: Tensor, scales: Tensor, out: Tensor) -> None:
    table = torch.empty(16, dtype=out.dtype)
    pointers = [tensor.data_ptr() for tensor in (stored, zeros, scales, out)]
    _LOOPS.function("looked_up", "bfloat16")(*pointers, *stored.shape, zeros.shape[1], shift, table.data_ptr())


@cache
def _looks_up() -> bool:
    return has_feature("avx512bw")  # asked for 210 times a pass it would take 0.05 s, a tenth of it
