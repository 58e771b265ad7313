"""Parts dealt to several processes, torchrun's or a Ray cluster's. Who computes a part changes nothing in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from biomistral import ranks
from biomistral.errors import UserError
from biomistral.evaluation.answering import Compute, Part
from biomistral.evaluation.computing import Computer
from biomistral.executor import executor
from biomistral.models.adapter import put_on
from biomistral.models.load import load_model
from biomistral.models.tokens import open_tokenizer
from biomistral.recipe import Machine
from biomistral.scoring.lean.known import open_engine
from biomistral.scoring.lean.taking import engine_for
from biomistral.scoring.tally import Row


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, here or by a worker elsewhere that sees the same folder."""

    folder: Path
    dtype: torch.dtype
    device: torch.device
    budget: int
    adapter: Path | None = None

    def computer(self) -> Computer:
        tokenizer = open_tokenizer(self.folder)
        if self.adapter is None:
            return Computer(open_engine(self.folder, self.dtype, self.device, self.budget), tokenizer)
        model = put_on(load_model(self.folder, self.dtype, self.device), self.adapter)
        return Computer(engine_for(model, self.budget), tokenizer)


def among_ranks(computer: Computer) -> Compute:
    """The first process computes its share and takes the others' in turn."""
    if ranks.world() == 1:
        return computer.compute
    exchange = ranks.Exchange()

    def compute(parts: Sequence[Part]) -> Iterator[list[Row]]:
        exchange.send("missing", [part.key for part in parts])  # at once, even if there are none: the others wait for it
        return (computer.rows(part) if number % ranks.world() == 0 else _taken(exchange.take(part.key))
                for number, part in enumerate(parts))

    return compute


def _taken(found: dict[str, Any]) -> list[Row]:
    """The rows that another process sent.

    Raises:
        UserError: it could not compute them: this process says so, and all end.
    """
    if "refused" in found:
        raise UserError(found["refused"])
    rows: list[Row] = found["rows"]
    return rows


def help_first(computer: Callable[[], Computer], parts: Sequence[Part], machine: Machine) -> None:
    """The part of a process other than the first: every so-manieth of the parts that are missing; of what Ray computes, nothing.

    Raises:
        Dismissed: always, when they are computed.
    """
    if machine.executor == "ray":
        raise ranks.Dismissed
    exchange, by_key = ranks.Exchange(), {one.key: one for part in parts for one in part.singly()}
    missing = exchange.take("missing", last=False)
    if mine := missing[ranks.rank()::ranks.world()]:
        own = computer()
        for key in mine:
            try:
                exchange.send(key, {"rows": own.rows(by_key[key])})
            except UserError as error:
                exchange.send(key, {"refused": str(error)})
                break
    raise ranks.Dismissed


@contextmanager
def on_ray(loading: Loading, machine: Machine) -> Iterator[Compute]:
    """Each worker loads the model once and computes parts as they come.

    Raises:
        UserError: see `executor`.
    """
    on_worker = replace(loading, folder=loading.folder.absolute(), device=torch.device(loading.device.type),
                        adapter=loading.adapter and loading.adapter.absolute())
    with executor(_on_worker, on_worker, machine, gpus=int(loading.device.type == "cuda")) as apply:
        yield lambda parts: apply(part.alone() for part in parts)


@lru_cache(maxsize=1)
def _kept(loading: Loading) -> Computer:
    return loading.computer()


def _on_worker(loading: Loading, part: Part) -> list[Row]:
    return _kept(loading).rows(part)
