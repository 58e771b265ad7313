"""How fast a training goes and how far it is: tokens a second, utilisation of the device, memory, time that is left."""

import resource
import sys
from collections import deque

import torch

from biomistral.training.foresight.peaks import device_name, peak_flops

RECENT_STEPS = 20
LIKELY_UTILISATION = 0.4
"""Share of the peak that the hours in the plan assume; the paper reached 0.27 on 32 A100s."""


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU if that computes, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def duration(seconds: float) -> str:
    """Seconds as a reader wants them: ``40 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Meter:
    """Reads of each step what a person at the screen wants to know of it."""

    def __init__(self, flop_per_token: float, device: torch.device, dtype: torch.dtype, devices: int = 1) -> None:
        """``flop_per_token`` counts the operations training needs, not what is computed twice to save memory."""
        self.flop_per_token, self.device = flop_per_token, device
        peak = peak_flops(device, dtype)
        self.peak = peak * devices if peak else None
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)

    def read(self, tokens: int, seconds: float, steps_left: int) -> dict[str, float]:
        """Columns of the step's row; ``utilisation``, the share of the peak, is left out where that is unknown."""
        self._recent.append(seconds)
        row = {"seconds": seconds, "tokens_per_second": tokens / seconds, "peak_memory_bytes": peak_memory_bytes(self.device),
               "seconds_left": steps_left * sum(self._recent) / len(self._recent)}
        if self.peak:
            row["utilisation"] = tokens * self.flop_per_token / seconds / self.peak
        return row

    def forecast(self, flop: float) -> str:
        """Hours that so many operations will take, at a likely share of the peak."""
        if not self.peak:
            return f"{device_name(self.device)}: its peak is not known, so neither are the hours"
        return (f"about {duration(flop / self.peak / LIKELY_UTILISATION)} at {LIKELY_UTILISATION:.0%} of the "
                f"{self.peak / 1e12:.3g} TFLOP/s of {device_name(self.device)}")


def words(row: dict[str, float]) -> str:
    """What stands beside the bar: loss, speed, utilisation, memory."""
    parts = [f"loss {row['loss']:.3f}", f"{row['tokens_per_second']:.0f} tokens/s"]
    if "utilisation" in row:
        parts.append(f"{row['utilisation']:.0%} of peak")
    return ", ".join([*parts, f"{row['peak_memory_bytes'] / 1e9:.1f} GB"])
