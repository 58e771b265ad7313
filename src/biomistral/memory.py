"""Keep freed memory in the process: the next step, or the next article, asks for the same blocks again."""

import ctypes
import platform

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
