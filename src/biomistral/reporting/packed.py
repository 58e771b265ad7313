"""Data files that pages load when they are asked for: a script that hands over JSON, and arrays in it as base64.

From disk a page may load scripts, not data (``fetch`` refuses ``file:``), so each file calls ``siteData(name, value)``.
"""

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomistral.reporting.answers import Bytes


def script(name: str, value: Any) -> str:
    """The text of a data file; pure ASCII, so that no reader of it can take a character for another."""
    return f"siteData({json.dumps(name)},{json.dumps(value, separators=(',', ':'), allow_nan=False)});\n"


def packed(array: NDArray[Any]) -> str:
    """The bytes of an array, row after row, little-endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


def bits_for(levels: int) -> int:
    """How many bits hold numbers from 0 to ``levels``: 1, 2, 4 or 8."""
    return next(bits for bits in (1, 2, 4, 8) if levels < 1 << bits)


def squeezed(values: Bytes, bits: int) -> str:
    """Small numbers, ``8 / bits`` of them in a byte, the first in its lowest bits; as `packed`."""
    per = 8 // bits
    rows = np.pad(values, (0, -len(values) % per)).reshape(-1, per)
    shifted = np.left_shift(rows, np.arange(per, dtype=np.uint8) * bits)
    return packed(np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8))
