"""Processes that work together as torchrun's do, forked from one that has imported everything: a second each, not twelve."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist


def together(size: int, work: Callable[[int], None], errors: Path) -> list[int]:
    """Call ``work(rank)`` in ``size`` processes; returns their exit codes (minus the signal, if one ended them).

    What they write to stderr goes to ``errors``. One that fails ends the others, as torchrun would.
    """
    holder, port = _hold_store()
    children = {_start(rank, size, port, work, errors): rank for rank in range(size)}
    codes = [0] * size
    left = set(children)
    while left:
        child, status = os.wait()
        left.discard(child)
        codes[children[child]] = os.waitstatus_to_exitcode(status)
        if codes[children[child]]:
            for other in left:
                os.kill(other, signal.SIGKILL)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    return codes


def _hold_store() -> tuple[int, int]:
    """A process that holds the store, as torchrun does, and its port. It has a thread, and one that forks must have none:
    a lock that the thread held just then would stay locked in the child."""
    here, there = os.pipe()
    holder = os.fork()
    if holder:
        return holder, int(os.read(here, 16))
    parent = os.getppid()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(there, str(store.port).encode())
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def _start(rank: int, size: int, port: int, work: Callable[[int], None], errors: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                   "GLOO_SOCKET_IFNAME": "lo",
                   "TOKENIZERS_PARALLELISM": "false"}  # its threads stayed with the parent: a child would wait for them
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    code = 1
    try:
        work(rank)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  (a child never goes on as if it were its parent)
        traceback.print_exc()
    finally:
        os._exit(code)
