"""Who does a tensor's arithmetic: compiled loops, or PyTorch on a CPU or a GPU. The bits are the same."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from biomistral.merging.account import measured_in
from biomistral.merging.catalogue import DEFAULT, Variants
from biomistral.merging.fused import operators as fused
from biomistral.merging.fused.native import prepare
from biomistral.merging.planned import PlannedTensor
from biomistral.merging.rows import Rows
from biomistral.progress import log

_WORTH_SAYING_S = 2.0


class Operator(Protocol):
    """One method at work on one tensor that comes in chunks: readings that gather statistics, then one that gives the result.

    Chunks come from first to last, ``passes`` times to `observe`, then once to `apply`. They start at multiples of
    `blocks.BLOCK` and hold whole multiples of ``unit`` elements (the last one may end earlier only with the tensor); where they
    are cut changes no bit of the result. ``inputs``, in the type computed in as it is stored, have the base first where the
    method has one; nothing may be written to them.
    """

    passes: int
    unit: int

    @property
    def peaks(self) -> np.ndarray | None:
        """Largest magnitudes so far of the result and of each input in the type computed in, as float32's bits, where the
        arithmetic measures them on its way."""

    def observe(self, number: int, inputs: Rows, start: int) -> None: ...

    def settle(self, number: int) -> None: ...

    def apply(self, inputs: Rows, start: int) -> np.ndarray:
        """The result's elements from ``start`` on, as they are stored; valid until the next ones are asked for."""

    def facts(self) -> dict[str, Any]: ...


def operator_for(task: PlannedTensor, root: int = 0, variants: Variants = DEFAULT, thresholds: dict[str, int] | None = None,
                 device: str = "cpu") -> Operator:
    """The operator that carries out a planned tensor.

    Args:
        root: the stage's seed.
        thresholds: with ``ties_trim: model``, each model's threshold (`survey.find_thresholds`).
        device: "cpu", for which the usual methods need no PyTorch; else PyTorch's name of a device.
    """
    if device == "cpu" and fused.fits(task, variants):
        return fused.operator_for(task, root, variants)
    from biomistral.merging.operators import OnTorch, torch_operator

    return OnTorch(task, torch_operator(task, root, variants, thresholds), device)


@contextmanager
def ready(tasks: list[PlannedTensor], variants: Variants, device: str) -> Iterator[None]:
    """Make ready what the tensors need: loops compiled, PyTorch imported and kept to one thread an operation.

    Threads share the work by tensors: more of them inside an operation would wait for one another (a merge of 6 s took 369 on two
    busy cores).
    """
    looped = [task for task in tasks if device == "cpu" and fused.fits(task, variants)]
    started = time.perf_counter()
    loops = {(name, task.dtype) for task in looped for name in fused.LOOPS[task.method]}
    for name, dtype in loops | {(name, measured_in(task)) for task in tasks for name in fused.MEASURES}:
        prepare(name, dtype)
    if (seconds := time.perf_counter() - started) > _WORTH_SAYING_S:
        log.info("compiled the loops of this merge for this processor in %.0f s; they are kept", seconds)
    if len(looped) == len(tasks):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
