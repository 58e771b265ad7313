"""AWQ's two searches (Lin et al., 2023, arXiv 2306.00978) from one Gram matrix a mapping instead of block forwards.

The output error of a linear layer over all calibration tokens X (T, K) needs only G = X'X:
||X (W - V)'||^2 = trace(D G D') with D = W - V. So the activations are looked at once, not 20 times.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from biomistral.quantization.calibrated.groups import group_range, rounded, scales_and_zeros

GRID = 20
CLIP_STEPS = 10
CLIP_STEP = 0.05


@contextmanager
def fast_products() -> Iterator[None]:
    """Let float32 products round their factors to bfloat16 where the hardware is faster so (2.3x with AMX).

    Activations of a bfloat16 model lose nothing, and in the searches the relative error, 2^-9 a factor, averages out.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def output_error(difference: Tensor, gram: Tensor) -> Tensor:
    """trace(D G D'): the squared error that weights off by D (N, K) make in the outputs; scalar."""
    return torch.dot((difference @ gram).flatten(), difference.flatten())


def candidate(mean: Tensor, ratio: float) -> Tensor:
    """Scales mean^ratio, brought to a geometric middle of 1 (between the largest and the smallest); (K,)."""
    scales = mean.clamp(min=1e-6).pow(ratio).clamp_(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def search_scales(weight: Tensor, gram: Tensor, mean: Tensor, group_size: int) -> Tensor:
    """The input scales s (K,) of the grid whose rounded weights Q(W s) / s change the outputs least.

    ``weight`` (N, K): all layers that read the same input, one above the other; ``gram`` (K, K) its X'X;
    ``mean`` (K,) the mean of |x| by input. Ratio 0, no scaling, is in the grid: never worse than rounding.
    """
    best, found = None, torch.ones_like(mean)
    for step in range(GRID):
        scales = candidate(mean, step / GRID)
        scaled = weight * scales
        difference = rounded(scaled, *scales_and_zeros(*group_range(scaled, group_size))).sub_(scaled)
        error = float(output_error(difference, gram / torch.outer(scales, scales)))
        if best is None or error < best:
            best, found = error, scales
    return found


def search_clip(weight: Tensor, gram: Tensor, group_size: int) -> Tensor:
    """How far each group's range shrinks (1 down to 0.55), (N, K/g): the least output error of the group by itself.

    Groups are taken as independent: only G's diagonal blocks (g, g) are used, as AWQ's clipping does.
    """
    low, high = group_range(weight, group_size)
    blocks = diagonal_blocks(gram, group_size)
    shrink = torch.ones_like(low)
    best = torch.full_like(low, torch.inf)
    for step in range(CLIP_STEPS):
        factor = 1 - step * CLIP_STEP
        difference = rounded(weight, *scales_and_zeros(low * factor, high * factor)).sub_(weight)
        grouped = difference.unflatten(1, (-1, group_size)).transpose(0, 1)  # (K/g, N, g)
        error = torch.bmm(grouped, blocks).mul_(grouped).sum(-1).T
        shrink = torch.where(error < best, factor, shrink)
        best = torch.minimum(error, best)
    return shrink


def diagonal_blocks(gram: Tensor, group_size: int) -> Tensor:
    """The (K/g, g, g) blocks on the diagonal of (K, K)."""
    groups = gram.shape[0] // group_size
    index = torch.arange(groups, device=gram.device)
    return gram.view(groups, group_size, groups, group_size)[index, :, index, :].contiguous()
