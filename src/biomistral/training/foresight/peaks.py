"""What a device could compute at most: dense matrix products, from the makers' data sheets, or measured on a CPU."""

import re
import time
from functools import cache

import torch

TERAFLOPS = (
    ("B200", 2250.0), ("GH200", 989.0), ("H200", 989.0), ("H100 NVL", 835.0), ("H100 PCIe", 756.0), ("H100", 989.0),
    ("H20", 148.0), ("A100", 312.0), ("A800", 312.0), ("A40", 149.7), ("A30", 165.0), ("A10G", 70.0), ("A10", 125.0),
    ("L40S", 362.0), ("L40", 181.0), ("L4", 121.0), ("RTX 6000 Ada", 364.2), ("RTX A6000", 154.8), ("RTX 5090", 209.5),
    ("RTX 4090", 165.2), ("RTX 4080", 97.5), ("RTX 3090", 71.0), ("MI300X", 1307.4), ("MI250X", 383.0),
)
"""bfloat16 with float32 sums, without sparsity, in 1e12 operations a second; the first name a device's name holds counts.

Looked up in published tables of data sheets, which agree: B200 (4.5 PFLOPS with sparsity), H200, L40S, L40, A40, RTX 4090, RTX
4080, RTX 3090, MI250X. The others stand as they were first written down, not looked up again.
"""

_SIDE, _TRIES = 768, 3


def gpu_peak(name: str) -> float | None:
    """Operations a second in bfloat16 of a GPU by its name, or None if the table does not have it."""
    for known, teraflops in TERAFLOPS:
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(known)}(?![0-9])", name, re.IGNORECASE):
            return teraflops * 1e12
    return None


@cache
def _measured(dtype: torch.dtype, threads: int) -> float:
    """The best of a few products of square matrices on the CPU; ``threads`` only parts what is remembered."""
    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + _TRIES):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return float(2 * _SIDE**3 / min(seconds))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Most operations a second of matrix products in ``dtype``; None where nobody knows.

    A GPU's is its maker's figure for bfloat16, also where float32 is computed (which then never comes near it); a CPU's is
    measured once, in a few hundredths of a second.
    """
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device))
    return _measured(dtype, torch.get_num_threads()) if device.type == "cpu" else None


def device_name(device: torch.device) -> str:
    """How a device is called in messages."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "this CPU (measured)"
