"""DELLA (arXiv 2406.11617): the probability of staying grows with an element's rank among the magnitudes of its row."""

import numpy as np
import torch

from biomistral.merging.floats import Float
from biomistral.merging.kernels import magnitude_bits
from biomistral.merging.scalars import dare_dtype, uniform_bits


def chances(columns: int, density: float, epsilon: float, dtype: Float) -> np.ndarray:
    """Probability of staying by rank, the smallest magnitude first: density - epsilon to density + epsilon, in float64.

    Like mergekit it counts ranks in the working type: in bfloat16 those above 256 fall into steps.
    """
    kind = dare_dtype(dtype).torch
    if columns == 1:  # mergekit divides by zero here
        return np.full(1, density)
    ranks = torch.arange(columns).to(kind).add_(1)
    shares = ((ranks - ranks[0]) / (ranks[-1] - ranks[0])).clamp_(0, 1)
    found: np.ndarray = ((density - epsilon) + shares * 2 * epsilon).double().numpy()
    return found


def by_rank(rows: torch.Tensor, table: np.ndarray) -> np.ndarray:
    """For every element of a matrix, the table's entry at its rank in its row; of equal magnitudes the first ranks lower.

    Magnitude and column are sorted as one integer: 2 ns an element, where a stable sort of floats takes 50.
    """
    bits, columns = magnitude_bits(rows).numpy(), rows.shape[1]
    narrow = bits.itemsize == 2 and columns <= 1 << 16
    kind, shift = (np.uint32, 16) if narrow else (np.uint64, 32)
    keys = (bits.astype(kind) << kind(shift)) | np.arange(columns, dtype=kind)
    keys.sort(axis=1)
    found: np.ndarray = np.empty(keys.shape, table.dtype)
    np.put_along_axis(found, (keys & kind((1 << shift) - 1)).astype(np.intp), table[None], axis=1)
    return found


def limits(table: np.ndarray) -> np.ndarray:
    """Probabilities as the 32-bit numbers below which an element stays (one more than 32 bits hold, where it is certain)."""
    found: np.ndarray = np.rint(table * 2**32).astype(np.uint64)
    return found


def mask(key: int, start: int, rows: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    """Which elements of a chunk stay, flat; ``table`` is what `limits` gives."""
    return torch.from_numpy(uniform_bits(key, start, rows.numel()) < by_rank(rows, table).reshape(-1))
