"""AdamW (Loshchilov and Hutter 2019), its moments in float32 or in 8 bits, and its state by name for checkpoints."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from biomistral.training.weights.eight_bit import BLOCK, dequantise, quantise

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""The moments by name, and whether they have a sign."""

_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Values updated at once: on a CPU they stay in its cache, on a GPU they fill it."""

_STATE_BYTES = {"adamw": 12.0, "adamw8bit": 6 + 8 / BLOCK}  # of a weight in a checkpoint: master and moments


class AdamW8bit(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
    """AdamW whose moments of matrices are kept in 8 bits (`eight_bit`); vectors, which are few and steer much, keep float32.

    Each step's update is computed in float32 from the moments before they are rounded again.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    def prepare(self, weight: Tensor, step: int) -> dict[str, Any]:
        """Moments of zero, as after ``step`` updates."""
        state: dict[str, Any] = {"step": step}
        blocks = -(-weight.numel() // BLOCK)
        for moment in MOMENTS:
            if weight.ndim < 2:
                state[moment] = torch.zeros_like(weight.detach())
                continue
            state[moment] = torch.zeros(weight.shape, dtype=torch.uint8, device=weight.device)
            state[f"{moment}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=weight.device)
        self.state[weight] = state
        return state

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight] if weight in self.state else self.prepare(weight, 0)
                state["step"] += 1
                update = _Update(group["lr"], group["weight_decay"], state["step"])
                if weight.ndim < 2:
                    update(weight, weight.grad, state["exp_avg"], state["exp_avg_sq"])
                else:
                    _update_in_pieces(weight.view(-1), weight.grad.view(-1), state, update)


class _Update:
    """One step of AdamW on float32 tensors, in place."""

    def __init__(self, learning_rate: float, weight_decay: float, step: int) -> None:
        self._keep = 1 - learning_rate * weight_decay
        self._size = learning_rate / (1 - BETAS[0] ** step)
        self._correction = math.sqrt(1 - BETAS[1] ** step)

    def __call__(self, weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor) -> None:
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = square.sqrt().div_(self._correction).add_(EPSILON)
        weight.mul_(self._keep).addcdiv_(mean, spread, value=-self._size)


def _update_in_pieces(weight: Tensor, gradient: Tensor, state: dict[str, Any], update: _Update) -> None:
    """Update a flat weight, whose moments are float32 only piece by piece."""
    size = _AT_ONCE.get(weight.device.type, _AT_ONCE["cpu"])
    width = min(size, -(-len(weight) // BLOCK) * BLOCK)
    rooms = [torch.empty(width // BLOCK, BLOCK, dtype=torch.float32, device=weight.device) for _ in MOMENTS]
    for start in range(0, len(weight), size):
        part, change = weight[start:start + size], gradient[start:start + size]
        first, blocks = start // BLOCK, -(-len(part) // BLOCK)
        held = [(state[moment].view(-1)[start:start + size], state[f"{moment}_scale"][first:first + blocks], signed)
                for moment, signed in MOMENTS.items()]
        exact = [dequantise(*kept, out=room[:blocks]) for kept, room in zip(held, rooms, strict=True)]
        update(part, change, *(moment.view(-1)[:len(part)] for moment in exact))
        for (codes, scales, signed), moment in zip(held, exact, strict=True):
            quantise(moment, signed, codes, scales)


def make_optimizer(weights: Sequence[Tensor], weight_decay: float, kind: str = "adamw") -> torch.optim.Optimizer:
    """AdamW that decays matrices alone; its learning rate is set before each step. ``kind``: ``adamw`` or ``adamw8bit``."""
    matrices, vectors = ([weight for weight in weights if (weight.ndim >= 2) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return AdamW8bit(groups) if kind == "adamw8bit" else torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def state_of(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a later step depends on, by name: masters and both moments, themselves and not copies."""
    named: dict[str, Tensor] = {}
    for name, weight in weights.items():
        named[f"master.{name}"] = weight.detach()
        named |= {f"{part}.{name}": tensor for part, tensor in optimizer.state[weight].items() if part != "step"}
    return named


def prepare_moments(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Have the optimiser hold moments of each weight, to be filled with those after ``step`` updates."""
    for weight in weights.values():
        if isinstance(optimizer, AdamW8bit):
            optimizer.prepare(weight, step)
            continue
        state = optimizer.state[weight]
        state["step"] = torch.tensor(float(step), device=weight.device if weight.is_cuda else None)
        state |= {moment: torch.zeros_like(weight.detach()) for moment in MOMENTS}


def checkpoint_bytes(num_weights: int, kind: str) -> int:
    """What a checkpoint of so many trained weights takes."""
    return int(_STATE_BYTES[kind] * num_weights)
