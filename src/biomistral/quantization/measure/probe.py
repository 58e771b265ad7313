"""Memory and speed of one model, in a process of its own: ``python -m`` this module with ``FOLDER DEVICE DTYPE``.

Of every time the fastest of several runs counts: what else the machine does can only add to it.
"""

import ctypes
import gc
import importlib
import json
import logging
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from biomistral.models import skeleton
from biomistral.models.folder import read_config
from biomistral.models.load import load_model, pick_device
from biomistral.scoring.groups import context_length
from biomistral.seeds import seed

_STATUS, _SMAPS = Path("/proc/self/status"), Path("/proc/self/smaps")
PREFILL = 512
DECODE = 32
_MADV_PAGEOUT = 21  # Linux from 5.4; elsewhere nothing happens
_RUNS, _SECONDS = 3, 1.0
"""At least so many runs, and as many more as fit into so many seconds."""


def probe(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Memory of the loaded model, and its speed on tokens drawn at random.

    ``resident_bytes``: what loading it and one forward pass added to this process (on a GPU: what its allocator holds);
    ``weight_bytes``: its parameters and buffers; ``load_seconds``; tokens a second of a prompt and of its continuation.
    """
    _warm_up(folder, device, dtype)
    before, started = _resident(device), time.perf_counter()
    model = load_model(folder, dtype, device)
    loaded = time.perf_counter() - started
    tokens = _tokens(folder, device)
    with torch.inference_mode():
        model(input_ids=tokens[:, :2], use_cache=False)  # kernels pack their weights at the first pass
        _page_out()
        model(input_ids=tokens[:, :2], use_cache=False)
        held = _resident(device) - before
        prefill = _fastest(lambda: _prefill(model, tokens), device)
        decode = _fastest(lambda: _decode(model, tokens), device)
    return {"resident_bytes": held, "weight_bytes": _weight_bytes(model), "load_seconds": round(loaded, 2),
            "peak_bytes": _peak(device), "prefill_tokens": tokens.shape[1],
            "prefill_tokens_per_second": tokens.shape[1] / prefill, "decode_tokens_per_second": DECODE / decode,
            "dtype": str(dtype).removeprefix("torch."), "device": _device_name(device), "threads": torch.get_num_threads()}


def _warm_up(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Bring in what any model of this kind needs, so that it is not taken for a part of this one."""
    config = read_config(folder)
    with suppress(skeleton.Unbuildable):
        skeleton.build(folder, dtype)
    if (config.get("quantization_config") or {}).get("quant_method") == "bitsandbytes":
        importlib.import_module("bitsandbytes.nn")
    square = torch.ones(256, 256, dtype=dtype, device=device)
    functional.linear(square, square)


def _page_out() -> None:
    """Give back pages of weight files that were read once and packed anew: those still used come back with the next pass."""
    for start, stop, _ in _mapped_weights():
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_PAGEOUT)


def _mapped_weights() -> Iterator[tuple[int, int, int]]:
    """Start, end and resident bytes of every mapping of a weight file; a page that several map is divided among them."""
    place: tuple[int, int] | None = None
    for line in _SMAPS.read_text(encoding="utf-8").splitlines() if _SMAPS.is_file() else []:
        first, *rest = line.split()
        if not first.endswith(":"):
            start, stop = (int(end, 16) for end in first.split("-"))
            place = (start, stop) if line.endswith((".safetensors", ".gguf")) else None
        elif first == "Pss:" and place is not None:
            yield (*place, int(rest[0]) * 1024)


def _tokens(folder: Path, device: torch.device) -> torch.Tensor:
    config = read_config(folder)
    longest = min(PREFILL, (context_length(config) or PREFILL) - DECODE - 1)
    vocabulary = int(config.get("vocab_size") or (config.get("text_config") or {})["vocab_size"])
    drawn = np.random.default_rng(seed(0, "quantize", "probe")).integers(0, vocabulary, (1, longest))
    return torch.from_numpy(drawn).to(device)


def _prefill(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    started = time.perf_counter()
    model(input_ids=tokens, use_cache=False, logits_to_keep=1)
    return started


def _decode(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """A short prompt, whose time does not count, and `DECODE` tokens behind it, one at a time."""
    cache = DynamicCache()
    last = model(input_ids=tokens[:, :64], past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
    started = time.perf_counter()
    for _ in range(DECODE):
        last = model(input_ids=last, past_key_values=cache).logits[:, -1:].argmax(-1)
    return started


def _fastest(run: Callable[[], float], device: torch.device) -> float:
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _RUNS or time.perf_counter() - begun < _SECONDS:
        started = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _weight_bytes(model: PreTrainedModel) -> int:
    """Of parameters and buffers, what two share counted once; scales of bitsandbytes' layers, which are neither, too."""
    found = {}
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        inner = getattr(state, "state2", None)
        scales = getattr(getattr(module, "weight", None), "SCB", None)
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for tensor in [*own, *(part for part in (getattr(state, "absmax", None), getattr(inner, "absmax", None), scales)
                               if part is not None)]:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() if tensor.is_contiguous() \
                and tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.nbytes
    return sum(found.values())


def _resident(device: torch.device) -> int:
    """What this process holds besides the code of its libraries: memory of its own, and what is in memory of weight files."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return int(torch.cuda.memory_allocated(device))
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # what loading freed is no part of the model
    rows = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines()) if _STATUS.is_file() else {}
    if "RssAnon" not in rows:
        return _peak(device)
    own = sum(int(rows[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return own + sum(resident for *_, resident in _mapped_weights())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def main() -> None:
    """Print the measurements of the model named on the command line as JSON."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    folder, device, dtype = sys.argv[1:]
    sys.stdout.write(json.dumps(probe(Path(folder), pick_device(device), getattr(torch, dtype))) + "\n")


if __name__ == "__main__":
    main()
