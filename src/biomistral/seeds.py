"""The only source of randomness: a seed is a function of the root seed and of names, never of shared state."""

import hashlib


def seed(root: int, *names: str | int) -> int:
    """Derive a 63-bit seed from the root seed and the names of what it is for.

    ``seed(0, "shots", task, item)`` is the same on every machine, in every order and for any number of workers,
    because nothing is drawn from a generator that others also draw from.
    """
    text = "\x1f".join([str(int(root)), *(f"{type(name).__name__}:{name}" for name in names)])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") >> 1
