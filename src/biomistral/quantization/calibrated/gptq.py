"""GPTQ (Frantar et al., 2022, arXiv 2210.17323): columns are rounded one after the other, the rest makes up for the error.

What a linear layer's inputs X (T, K) have to say is in G = X'X: with U the upper Cholesky factor of G's inverse, rounding
column k by e changes the columns after it best by e * U[k, k+1:] / U[k, k].
"""

import torch
from torch import Tensor

from biomistral.quantization.calibrated.groups import Scheme, grid

DAMPING = 0.01
"""Of the mean of G's diagonal, added to it, as the authors do; doubled until G can be factored."""
_BLOCK = 64  # columns whose later columns are changed at once


def inverse_factor(gram: Tensor) -> Tensor:
    """U (K, K), upper triangular, with U'U = (G + damping)^-1, in float32.

    Inputs that are never active get the mean on G's diagonal: their weights are rounded to nearest, nothing depends on them.
    G = V V' with V upper triangular is the Cholesky factorisation of G read backwards, and U is the inverse of V.
    """
    backwards = gram.flip(0, 1)
    diagonal = backwards.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal.add_(torch.where(diagonal == 0, mean, 0.0) + DAMPING * mean)
    while True:
        lower, failed = torch.linalg.cholesky_ex(backwards)
        if not failed:
            break
        diagonal.add_(DAMPING * mean)
    identity = torch.eye(gram.shape[0], device=gram.device)
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)


def compensate(weight: Tensor, gram: Tensor, scheme: Scheme, shrink: Tensor | None = None,
               by_activity: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Levels' weights (N, K) float32 before rounding, scales and zeros (N, K/g) as in `groups.grid`.

    The weights returned are those each column had when it was rounded: rounding them again with the scales gives the levels.
    Groups' ranges are those of the weights given (static groups), narrowed by ``shrink``; ``by_activity`` rounds the inputs
    with the largest sum of squares first (act-order).
    """
    scales, zeros = grid(weight, scheme, shrink)
    order = torch.argsort(gram.diagonal(), descending=True, stable=True) if by_activity else torch.arange(
        gram.shape[0], device=gram.device)
    factor = inverse_factor(gram[order][:, order] if by_activity else gram)
    left, seen = weight[:, order].T.contiguous(), torch.empty_like(weight.T)  # rows are columns: contiguous
    group_of = order // scheme.group_size
    scale_rows, zero_rows = scales.T.contiguous(), zeros.T.contiguous()
    for start in range(0, left.shape[0], _BLOCK):
        stop = min(start + _BLOCK, left.shape[0])
        errors = torch.empty_like(left[start:stop])
        for k in range(start, stop):
            column, scale, zero = left[k], scale_rows[group_of[k]], zero_rows[group_of[k]]
            seen[order[k]] = column
            nearest = torch.clamp((column / scale).round_(), -zero, scheme.top - zero).mul_(scale)
            error = (column - nearest).div_(factor[k, k])
            left[k + 1:stop].addr_(factor[k, k + 1:stop], error, alpha=-1)
            errors[k - start] = error
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return seen.T.contiguous(), scales, zeros
