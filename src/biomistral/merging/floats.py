"""The float types that weights come in, as numpy holds them: bfloat16, which numpy has not, as its bits."""

from enum import Enum
from functools import reduce
from typing import Any

import numpy as np


class Float(Enum):
    """A type of weights; its name is that of safetensors, its value that of config.json, PyTorch and mergekit.

    ``storage``: the numpy type of arrays that hold such values; ``infinity``: its magnitude as bits, between those of finite
    values and those of NaN.
    """

    F32 = ("float32", np.float32, 0x7F800000)
    BF16 = ("bfloat16", np.uint16, 0x7F80)
    F16 = ("float16", np.float16, 0x7C00)

    storage: type[np.generic]
    itemsize: int
    infinity: int

    def __new__(cls, value: str, storage: type[np.generic], infinity: int) -> "Float":
        made = object.__new__(cls)
        made._value_, made.storage, made.itemsize, made.infinity = value, storage, np.dtype(storage).itemsize, infinity
        return made

    __hash__ = object.__hash__  # not by name, in Python: it is asked for with every loop

    @property
    def torch(self) -> Any:
        """PyTorch's name for it, which imports PyTorch: a second of CPU time that most merges can do without."""
        import torch

        return getattr(torch, self.value)


BY_NAME: dict[str, Float] = {one.value: one for one in Float}
"""Types by config.json's names."""


def promoted(types: list[Float]) -> Float:
    """The type that holds all values of several."""
    return reduce(lambda one, other: one if one is other else Float.F32, types)


def widen(values: np.ndarray, dtype: Float) -> np.ndarray:
    """Values in their storage as float32."""
    found: np.ndarray = values.astype(np.uint32) << np.uint32(16) if dtype is Float.BF16 else values
    return found.view(np.float32) if dtype is Float.BF16 else found.astype(np.float32, copy=False)


def narrow(values: np.ndarray, dtype: Float) -> np.ndarray:
    """Float32 values rounded to a type, to even; what is too large becomes infinite, NaN stays NaN."""
    if dtype is Float.BF16:
        bits: np.ndarray = values.view(np.uint32)
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
        found: np.ndarray = np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
        return found
    with np.errstate(over="ignore", under="ignore"):
        found = values.astype(dtype.storage, copy=False)
    return found


def converted(values: np.ndarray, dtype: Float, wanted: Float) -> np.ndarray:
    """Values in their storage, rounded to another type."""
    return values if wanted is dtype else narrow(widen(values, dtype), wanted)


def rounded(value: float, dtype: Float) -> float:
    """A number as a type holds it; by way of float32, as PyTorch does it."""
    with np.errstate(over="ignore", under="ignore"):
        return float(widen(narrow(np.array([value], np.float32), dtype), dtype)[0])


def magnitudes(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the magnitudes: the bits of values in their storage without the sign (15, or 31 of float32)."""
    bits: np.ndarray = values.view(f"i{values.itemsize}")
    found: np.ndarray = bits & np.iinfo(bits.dtype).max
    return found
