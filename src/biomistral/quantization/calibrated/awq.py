"""AWQ's two searches (Lin et al., 2023, arXiv 2306.00978) from one Gram matrix a mapping instead of block forwards.

The output error of a linear layer over all calibration tokens X (T, K) needs only G = X'X:
||X (W - V)'||^2 = trace(D G D') with D = W - V. So the activations are looked at once, not 20 times.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from biomistral.quantization.calibrated.groups import Scheme, grid, group_range, rounded, scales_and_zeros

COARSE, FINEST = 0.25, 1 / 32
"""The ratios 0, 0.25 ... 1, then around the best one half as far, down to 1/32: eleven of AutoAWQ's twenty or fewer."""
SEARCH_ROWS = 256
"""Rows of the weights that a ratio is judged by: all of them gave SmolLM2 a KL divergence of 0.142, 256 of them 0.143."""
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


def search_scales(weight: Tensor, gram: Tensor, mean: Tensor, scheme: Scheme) -> Tensor:
    """The input scales s (K,) whose rounded weights Q(W s) / s change the outputs least, of those `candidate` makes.

    ``weight`` (N, K): all layers that read the same input, one above the other, of which every so many rows is looked at;
    ``gram`` (K, K) its X'X; ``mean`` (K,) the mean of |x| by input. Ratio 0, no scaling, is among those tried.
    """
    weight = weight[::max(1, weight.shape[0] // SEARCH_ROWS)]

    def error(ratio: float) -> float:
        scales = candidate(mean, ratio)
        scaled = weight * scales
        return float(output_error(rounded(scaled, *grid(scaled, scheme), scheme).sub_(scaled).div_(scales), gram))

    step = COARSE
    errors = {ratio * step: error(ratio * step) for ratio in range(round(1 / step) + 1)}
    while step > FINEST:
        step, best = step / 2, min(errors, key=errors.__getitem__)
        errors |= {ratio: error(ratio) for ratio in (best - step, best + step) if 0 <= ratio <= 1}
    return candidate(mean, min(errors, key=errors.__getitem__))


def search_clip(weight: Tensor, blocks: Tensor, scheme: Scheme) -> Tensor:
    """How far each group's range shrinks (1 down to 0.55), (N, K/g): the least output error of the group by itself.

    Groups are taken as independent: ``blocks`` (K/g, g, g) are those on G's diagonal (`diagonal_blocks`), as AWQ does it.
    """
    low, high = group_range(weight, scheme.group_size)
    shrink = torch.ones_like(low)
    best = torch.full_like(low, torch.inf)
    for step in range(CLIP_STEPS):
        factor = 1 - step * CLIP_STEP
        scales, zeros = scales_and_zeros(low * factor, high * factor, scheme)
        difference = rounded(weight, scales, zeros, scheme).sub_(weight)
        grouped = difference.unflatten(1, (-1, scheme.group_size)).transpose(0, 1)  # (K/g, N, g)
        error = torch.bmm(grouped, blocks).mul_(grouped).sum(-1).T
        shrink = torch.where(error < best, factor, shrink)
        best = torch.minimum(error, best)
    return shrink


def diagonal_blocks(gram: Tensor, group_size: int) -> Tensor:
    """The (K/g, g, g) blocks on the diagonal of (K, K)."""
    groups = gram.shape[0] // group_size
    index = torch.arange(groups, device=gram.device)
    return gram.view(groups, group_size, groups, group_size)[index, :, index, :].contiguous()
