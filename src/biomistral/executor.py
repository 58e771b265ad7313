"""Run one function over many batches, results in order: in this process, in a pool of processes, or on a Ray cluster.

All three call the same function on the same batches and give results in the same order, so the bytes written are the same.
"""

import multiprocessing
import os
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from biomistral.errors import UserError
from biomistral.memory import keep_freed_memory
from biomistral.recipe import Machine

Task = TypeVar("Task")
Result = TypeVar("Result")
Function: TypeAlias = Callable[[Any, Task], Result]
Apply: TypeAlias = Callable[[Iterable[Task]], Iterator[Result]]
"""Results of all tasks, in their order; never more than a few a worker are in memory."""

AHEAD = 3
"""Batches in flight a worker: the next two wait while one is worked on."""

_state: tuple[Callable[..., Any], Any] | None = None  # of a worker process, set once when it starts


@contextmanager
def executor(function: Function[Task, Result], shared: Any, machine: Machine, gpus: int = 0) -> Iterator[Apply[Task, Result]]:
    """``function(shared, task)`` for many tasks; ``shared`` is sent to each worker once. ``gpus``: what Ray gives each of them.

    Raises:
        UserError: Ray is asked for and not installed, or its cluster does not answer; a worker process died.
    """
    if machine.executor == "ray":
        with _ray(function, shared, machine, gpus) as apply:
            yield apply
        return
    count = machine.workers or os.cpu_count() or 1
    if count == 1:
        keep_freed_memory()
        yield lambda tasks: (function(shared, task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork could copy a lock that a thread of torch or Arrow holds
    with tempfile.TemporaryDirectory() as folder, \
            ProcessPoolExecutor(count, context, _start, (function, _written(shared, Path(folder)))) as pool:
        try:
            yield lambda tasks: _in_order(lambda task: pool.submit(_run, task), Future.result, tasks, AHEAD * count)
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed, most likely for want of memory: run again with fewer --workers, what "
                            "was read stays; or could not start: a script of your own needs if __name__ == '__main__'") from error


def _written(shared: Any, folder: Path) -> Path:
    """What all workers share, in a file. What starts a process goes through a pipe, and Python waits for ever for a process
    that died before it had read more than the pipe holds."""
    path = folder / "shared.pickle"
    with path.open("wb") as stream:
        pickle.dump(shared, stream, pickle.HIGHEST_PROTOCOL)
    return path


def _start(function: Callable[..., Any], path: Path) -> None:
    global _state
    keep_freed_memory()
    with path.open("rb") as stream:
        _state = (function, pickle.load(stream))


def _run(task: Any) -> Any:
    assert _state is not None
    return _state[0](_state[1], task)


def _in_order(submit: Callable[[Any], Any], result: Callable[[Any], Any], tasks: Iterable[Any], ahead: int) -> Iterator[Any]:
    pending: deque[Any] = deque()
    for task in tasks:
        pending.append(submit(task))
        if len(pending) >= ahead:
            yield result(pending.popleft())
    while pending:
        yield result(pending.popleft())


@contextmanager
def _ray(function: Function[Task, Result], shared: Any, machine: Machine, gpus: int) -> Iterator[Apply[Task, Result]]:
    """On the cluster that RAY_ADDRESS (or Ray's own default) names, else on a local one that is started and stopped here."""
    try:
        import ray as library
    except ImportError as error:
        raise UserError("the Ray executor needs the extra 'ray'; bring it with: pip install 'biomistral[ray]', or take "
                        "--executor local") from error
    ray: Any = library
    started = not ray.is_initialized()
    if started:
        _connect(ray, machine)
    try:
        count = machine.workers or int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
        kept = ray.put(shared)
        remote = ray.remote(max_retries=3, num_gpus=gpus)(_on_ray)
        yield lambda tasks: _in_order(lambda task: remote.remote(function, kept, task), _from_ray, tasks, AHEAD * count)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, machine: Machine) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if "RAY_ADDRESS" in os.environ:
            ray.init(**quiet)
        else:
            ray.init(num_cpus=machine.workers or None, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UserError(f"Ray cannot be reached ({str(error).splitlines()[0]}); see RAY_ADDRESS, or take --executor local") \
            from error


def _from_ray(reference: Any) -> Any:
    """A result, or the very error the function raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _on_ray(function: Callable[..., Any], shared: Any, task: Any) -> Any:
    return function(shared, task)
