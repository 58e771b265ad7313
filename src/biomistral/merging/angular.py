"""The arithmetic of methods that measure angles, for vectors that are the rows of a matrix: nuslerp, model_stock, SLERP by row.

mergekit 0.1.5's results are the reference: nuslerp and model_stock round to the working type after every operation, so in
bfloat16 an angle has three digits; ``dtype: float32`` gives them seven. Sums are taken in float64 and rounded to the working
type once. Sources: nuslerp is mergekit's own; Model Stock arXiv 2403.19522.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

_DIRECTION_FLOOR = 1e-7
_COLINEAR = 1e-8**2
_STOCK_FLOOR = 1e-6
_LERP_FROM = 0.9995
_NORM_FLOOR = 1e-8
_EVEN_BELOW = 1e-6


# ---- sums that do not depend on how many rows are summed at once ----------------------------------------------------


def row_sums(values: torch.Tensor) -> torch.Tensor:
    """Float64 sums of a matrix' rows, ``(rows, 1)``; numpy sums every row alike, however many there are."""
    return torch.from_numpy(np.add.reduce(values.double().numpy(), axis=1, keepdims=True))


def add_rows(total: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``total`` (float64, one element a column) plus every row of ``values``, one after another."""
    result: np.ndarray = total.numpy().copy()
    for row in values.double().numpy():
        result += row
    return torch.from_numpy(result)


# ---- nuslerp --------------------------------------------------------------------------------------------------------


def share_of_second(first: float, second: float) -> float:
    """How far to go from the first model to the second; half way if the weights cancel."""
    total = first + second
    return 0.5 if abs(total) < _EVEN_BELOW else second / total


def directions(values: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Vectors of length one; ``norms`` broadcast over ``values`` and have their type."""
    return values / norms.clamp(min=_DIRECTION_FLOOR)


@dataclass(frozen=True)
class Turn:
    """The way from one direction to another, for every vector: coefficients that are divided by ``divisor``; vectors on one
    line are interpolated linearly."""

    share: float
    first: torch.Tensor
    second: torch.Tensor
    divisor: torch.Tensor
    colinear: torch.Tensor


def turn(share: float, cosines: torch.Tensor) -> Turn:
    """The way ``share`` of the angle between two directions; ``cosines`` in the working type."""
    cosines = cosines.clamp(-1, 1)
    colinear = (1 - cosines.square()) <= _COLINEAR
    angles = torch.acos(torch.where(colinear, 0, cosines))
    return Turn(share, torch.sin((1 - share) * angles), torch.sin(share * angles), torch.sin(angles), colinear)


def turned(by: Turn, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Vectors on the way from ``first`` to ``second``, which keep their lengths' share."""
    arc = (by.first * first + by.second * second) / by.divisor
    return torch.where(by.colinear, (1 - by.share) * first + by.share * second, arc)


# ---- model_stock ----------------------------------------------------------------------------------------------------


def stock_products(offsets: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the sums of `stock_ratio` are taken of: each offset's squares, then the product of every pair."""
    return [offset.double().square() for offset in offsets] + [first * second for first, second in combinations(offsets, 2)]


def stock_ratio(sums: list[torch.Tensor], count: int, dtype: torch.dtype) -> torch.Tensor:
    """How far to go from the base to the mean of ``count`` fine-tuned models: nothing where their offsets cancel.

    ``sums`` are those of `stock_products`, in float64 and of any shape; the result has that shape, in ``dtype``.
    """
    norms = [total.sqrt().to(dtype) for total in sums[:count]]
    cosines = [(total.to(dtype) / (first * second).clamp(min=_STOCK_FLOOR)).clamp(-1, 1)
               for total, (first, second) in zip(sums[count:], combinations(norms, 2), strict=True)]
    cosine = torch.stack(cosines).mean(0)
    denominator = 1 + (count - 1) * cosine
    singular = denominator.abs() < 1e-6
    ratio = (count * cosine) / torch.where(singular, torch.ones_like(denominator), denominator)
    return torch.where(singular, torch.zeros_like(cosine), ratio)


def stock(base: torch.Tensor, others: list[torch.Tensor], ratio: torch.Tensor) -> torch.Tensor:
    """``ratio`` of the way from the base to the mean of the others."""
    total = others[0] + 0
    for other in others[1:]:
        total = total + other
    return ratio * (total / len(others)) + (1 - ratio) * base


# ---- slerp, row by row ----------------------------------------------------------------------------------------------


def slerp_rows(t: float, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, int]:
    """SLERP with an angle for every row of two matrices, as it was published for vectors, and how many rows were so nearly
    parallel (abs(cosine) > 0.9995) that they were interpolated linearly. An end of the way is a copy, bit for bit."""
    a, b = first.float(), second.float()
    norms = [row_sums(values * values).sqrt() for values in (a.double(), b.double())]
    lengths = [torch.where(norm > _NORM_FLOOR, norm, 1.0) for norm in norms]
    cosines = (row_sums(a.double() * b.double()) / (lengths[0] * lengths[1])).clamp(-1, 1)
    linear = cosines.abs() > _LERP_FROM
    angles = torch.acos(torch.where(linear, 0.0, cosines))
    ways = [torch.where(linear, share, torch.sin(share * angles) / torch.sin(angles)).float() for share in (1 - t, t)]
    if t in (0, 1):
        return (second if t else first), int(linear.sum())
    return (a * ways[0]).add_(b * ways[1]).to(first.dtype), int(linear.sum())
