"""Gradients held in float32 buckets, each added up over the processes as soon as it is full, while backward goes on."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from biomistral.training.parallel import Group

BUCKET_ELEMENTS = 1 << 23
"""32 MiB of float32: one layer of a 135M model, long enough for a network's bandwidth; a larger gradient is its own bucket."""


class Buckets:
    """Room for the gradient of every master, laid out in the order in which backward comes to them: from the last layer on.

    Buckets are sent in that order whatever order they fill in, so that all processes add up the same ones.
    """

    def __init__(self, masters: Mapping[str, Tensor], group: Group, elements: int = BUCKET_ELEMENTS) -> None:
        self._group, self._masters = group, masters
        self._bucket_of: dict[str, int] = {}
        self._views: dict[str, Tensor] = {}
        self._flat: list[Tensor] = []
        for names in _cut([(name, master.numel()) for name, master in reversed(list(masters.items()))], elements):
            sizes = [masters[name].numel() for name in names]
            flat = torch.empty(sum(sizes), dtype=torch.float32, device=group.device)
            for name, part in zip(names, flat.split(sizes), strict=True):
                self._bucket_of[name], self._views[name] = len(self._flat), part.view(masters[name].shape)
            self._flat.append(flat)
        self._last = False
        self._missing: list[set[str]] = []
        self._pending: list[dist.Work | None] = []

    def begin(self, last: bool) -> None:
        """A backward pass begins; after the ``last`` one of a step nothing is added, so what is full may be sent."""
        self._last = last
        if last:
            self._missing = [set() for _ in self._flat]
            for name, number in self._bucket_of.items():
                self._missing[number].add(name)

    def add(self, name: str, gradient: Tensor) -> None:
        """Add to a master's gradient."""
        master = self._masters[name]
        if master.grad is None:
            master.grad = self._views[name].copy_(gradient)
        else:
            master.grad.add_(gradient)
        if self._last:
            self._missing[self._bucket_of[name]].discard(name)
            while len(self._pending) < len(self._flat) and not self._missing[len(self._pending)]:
                self._send()

    def finish(self) -> None:
        """Send what is left and wait. A weight that no process's loss depends on has a gradient of zero."""
        for name, master in self._masters.items():
            if master.grad is None:
                master.grad = self._views[name].zero_()
        while len(self._pending) < len(self._flat):
            self._send()
        for pending in self._pending:
            if pending is not None:
                pending.wait()
        self._pending.clear()

    def _send(self) -> None:
        self._pending.append(self._group.begin_adding_up(self._flat[len(self._pending)]))


def _cut(sizes: list[tuple[str, int]], elements: int) -> list[list[str]]:
    """Names in groups of at most ``elements``, in order; a larger one by itself."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes:
        if size > room or not groups:
            groups.append([])
            room = elements
        groups[-1].append(name)
        room -= size
    return groups
