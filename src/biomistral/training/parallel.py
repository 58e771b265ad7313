"""The processes of one training: who takes which sequences, what is added up over all of them."""

import datetime
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from biomistral import ranks
from biomistral.training.data.batch import IGNORE, Block, micro_batches

_PATIENCE = datetime.timedelta(hours=2)
"""How long processes wait for one another: the first may be writing and hashing a checkpoint of 84 GB."""

_IDLE = Block(np.zeros(2, np.int64), np.full(2, IGNORE), (2,), ())
_trainings = itertools.count(1)  # a recipe may train several times
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Process ``rank`` of ``size``, which computes on ``device``. Of one process every method is the identity.

    ``channel`` is what they talk over; None: the way that all started with.
    """

    rank: int
    size: int
    device: torch.device
    channel: "dist.ProcessGroup | None" = None

    @classmethod
    def alone(cls) -> "Group":
        """One process, on its CPU."""
        return cls(0, 1, torch.device("cpu"))

    def beside(self) -> "Group":
        """The same processes over a channel of their own, on the CPU, for a thread: what two threads say must not mix."""
        if self.size == 1:
            return Group.alone()
        return Group(self.rank, self.size, torch.device("cpu"), dist.new_group(backend="gloo", timeout=_PATIENCE))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every ``size``-th item. Parts differ by one item where the number cannot be divided."""
        return items[self.rank::self.size]

    def micro_batches(self, blocks: Sequence[Block], max_tokens: int) -> list[list[Block]]:
        """This process's ``blocks`` in micro-batches, as many as every other process has: some may predict nothing.

        Sharded weights are gathered by all processes at once, so each must compute as often as the others.
        """
        groups = list(micro_batches(blocks, max_tokens))
        most = int(self.largest(len(groups))[0])
        return groups + [[_IDLE]] * (most - len(groups))

    def sum(self, *values: float) -> list[float]:
        """Each value added up over the processes, in float64; the same bits in all of them."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over the processes: how they agree on a clock, a signal, a number of micro-batches."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation, group=self.channel)
        return [float(value) for value in tensor.tolist()]

    def begin_adding_up(self, tensor: Tensor) -> "dist.Work | None":
        """Begin to add a tensor up over the processes, in place: done once what is returned has been waited for."""
        return dist.all_reduce(tensor, group=self.channel, async_op=True) if self.size > 1 else None

    def from_first(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor on ``device`` by the first process's, and return it."""
        if self.size > 1:
            dist.broadcast(tensor, 0, group=self.channel)
        return tensor

    def words_of_all(self, value: Any) -> list[Any]:
        """Plain data of every process, in order."""
        held = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(held, value, group=self.channel)
        return held

    def words_of_first(self, value: Any) -> Any:
        """Plain data as the first process has it."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, 0, group=self.channel, device=self.device)
        return held[0]


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group of all processes that torchrun started, for as long as one training lasts."""
    if ranks.world() == 1:
        yield Group(0, 1, device)
        return
    store = dist.PrefixStore(f"training-{next(_trainings)}", ranks.store())
    cuda = device.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=ranks.rank(), world_size=ranks.world(),
                            timeout=_PATIENCE, device_id=device if cuda else None)
    yield Group(ranks.rank(), ranks.world(), device)
    dist.destroy_process_group()  # not after a failure: the others may be gone, and it would wait for them
