"""A training's state on disk by ``torch.distributed.checkpoint``: each process writes and reads its own part, as safetensors."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from biomistral.training.parallel import Group

FILE_BYTES = 1 << 28
"""About what a process writes into one file: torch builds it in memory, twice, before it is written."""

State = dict[str, Tensor]
"""Tensors by name: whole ones, or DTensors of which each process holds a part."""


def write_state(folder: Path, state: State, group: Group) -> list[Path]:
    """Write a state, of which the processes of ``group`` each hold a part, into a folder; returns this process's files.

    A part lies in its file under the tensor's name, its place in the whole in the file's metadata: so there is no pickle, and
    the state can be read in other parts. Parts that several processes hold are written by one of them.
    """
    _let_one_process_be()
    numbers = _file_numbers(state, FILE_BYTES * group.size)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
    with _plain_errors():
        dcp.save(state, storage_writer=writer, process_group=group.channel, no_dist=group.size == 1)
    return sorted(folder.glob(f"shard-{group.rank + 1:05d}-*.safetensors"))


def read_state(folder: Path, state: State, group: Group) -> None:
    """Fill a state's tensors, or the parts that this process holds of them, from a folder, in whatever parts it was written."""
    _let_one_process_be()
    reader = HuggingFaceStorageReader(str(folder))
    with _plain_errors():
        dcp.load(state, storage_reader=reader, process_group=group.channel, no_dist=group.size == 1)


def copy_of(state: State) -> State:
    """A copy of what this process holds of a state, in the host's memory."""
    stager = DefaultStager(StagingOptions(use_pinned_memory=False, use_shared_memory=False, use_async_staging=False,
                                          use_non_blocking_copy=False))
    copied: State = stager.stage(dict(state))
    return copied


def num_bytes(state: State) -> int:
    """Bytes of the whole state, all parts together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _file_numbers(state: State, most: int) -> dict[str, int]:
    """The file that each tensor goes to, counted from 1: a new one is begun once one holds ``most`` bytes, all parts together."""
    numbers, number, held = {}, 1, 0
    for name, tensor in state.items():
        if held >= most:
            number, held = number + 1, 0
        numbers[name] = number
        held += tensor.numel() * tensor.element_size()
    return numbers


def _let_one_process_be() -> None:
    """torch warns, each time, that it was asked to work in one process."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What went wrong in a process, itself: torch wraps it in an exception that no handler of errors catches."""
    try:
        yield
    except dcp.CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
