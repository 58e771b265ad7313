"""Keep freed memory for the next document instead of handing it back to the system and touching it anew."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_KEPT = 1 << 30
_PAD = 64 << 20


def keep_freed_memory() -> None:
    """Tell glibc so; elsewhere nothing happens.

    Each article's tree and arrays are freed before the next one's are made. By default most of that memory goes back to
    the system and its pages are cleared again at the next touch: an eighth of a build's time. The most a process ever held
    is kept, which is bounded by its largest article.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_TOP_PAD, _PAD)
        mallopt(_MMAP_THRESHOLD, _KEPT)
