"""Rows or sequences of a loop shared among threads: each does its own alone, so that how many there are changes no bit."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def share(count: int, least: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for parts of ``count``, each of ``least`` at least, in as many threads as PyTorch has."""
    parts = max(1, min(torch.get_num_threads(), count // least))
    bounds = [count * part // parts for part in range(parts + 1)]
    others = [_pool(os.getpid()).submit(work, bounds[part], bounds[part + 1]) for part in range(1, parts)]
    work(bounds[0], bounds[1])
    for other in others:
        other.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that last, since starting one takes as long as a loop over a hundred rows; a forked process has its own."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads()), thread_name_prefix="loops")
