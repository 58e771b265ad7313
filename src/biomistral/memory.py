"""What a process does with memory it does not need at the moment: keep freed blocks, and leave modules' objects alone."""

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)


def keep_freed_memory() -> bool:
    """Have glibc keep large freed blocks for the next request, for the rest of this process; False where there is no glibc.

    By default it gives blocks over 32 MB back to the kernel, which hands them out again page by page, zeroed: a training
    step of 2,048 tokens of a 135 M model faulted 220,000 pages in, 0.6 to 1.0 s of 7, and building a corpus took an eighth
    longer; so set, none. The most a process ever held is kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Return freed blocks to the kernel, those between blocks in use too; nothing where there is no glibc.

    Worth it between phases whose blocks differ in size: what one left behind in pieces does not fit the next one.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import without looking for garbage, and if PyTorch came in, never look through what the modules made again.

    PyTorch makes a million objects that live as long as the process; going through them while they are made, and three
    times at exit, is a third of what starting it costs (0.79 CPU seconds instead of 1.18). Only the first import of PyTorch
    is so marked: later, garbage of the work done might be kept with it.
    """
    collected, fresh = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if fresh and "torch" in sys.modules:
            gc.freeze()
        if collected:
            gc.enable()
