"""The same elements of several tensors, side by side as arrays wherever they lie."""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

_first_byte: Callable[[Any], Any] = ctypes.c_char.from_buffer
_addressof = ctypes.addressof


def address(array: np.ndarray) -> int:
    """Where a contiguous array begins; by way of ctypes in a fifth of the time that numpy takes."""
    if not array.flags.writeable:
        return int(array.ctypes.data)
    return _addressof(_first_byte(array)) if array.size else 0


class Rows(tuple[np.ndarray, ...]):
    """Flat, contiguous arrays of one length and type; nothing may be written to them.

    ``pointers`` says where each begins; ``addresses`` the same as an array, as loops take it.
    """

    pointers: list[int]
    addresses: np.ndarray

    def __new__(cls, rows: Iterable[np.ndarray]) -> "Rows":
        made = super().__new__(cls, rows)
        made.pointers = [address(row) for row in made]
        made.addresses = np.array(made.pointers, np.int64)
        return made
