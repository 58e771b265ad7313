"""float32 master weights and their AdamW, behind a model that computes in another precision."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from biomistral.training.batch import MicroBatch, batch_loss
from biomistral.training.parallel import Group

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


class Weights(Protocol):
    """Trained weights, whole in every process (`MasterWeights`) or in parts (`sharded.ShardedWeights`).

    ``masters`` are the trained weights by name: at any time, or for parts once `finish` has gathered them.
    """

    kind: str
    masters: dict[str, Tensor]

    @property
    def num_trainable(self) -> int: ...

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor: ...

    def add_up_gradients(self) -> None: ...

    def gradient_norm(self, clip_norm: float) -> float: ...

    def update(self, learning_rate: float) -> None: ...

    def state(self) -> Iterator[tuple[str, Tensor]]: ...

    def tensor_to_restore(self, name: str) -> Tensor: ...

    def restore(self, name: str, whole: Tensor, step: int) -> None: ...

    def finish(self) -> None: ...


def make_optimizer(weights: Sequence[Tensor], weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices alone; its learning rate is set before each step."""
    matrices, vectors = ([weight for weight in weights if (weight.ndim >= 2) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def moments_to_restore(optimizer: torch.optim.AdamW, weight: Tensor, step: int) -> dict[str, Any]:
    """The optimiser's state of a weight after ``step`` updates, to put its moments in."""
    state: dict[str, Any] = optimizer.state[weight]
    state["step"] = torch.tensor(float(step), device=weight.device if weight.is_cuda else None)
    return state


class MasterWeights:
    """Masters of a model's trainable parameters; the model itself holds copies in ``compute_dtype``.

    Gradients arrive in the compute dtype, are added up in float32 over the micro-batches of a step, and are freed as soon
    as they have been added, so only one parameter's gradient exists twice. bf16 alone would lose most AdamW steps: at
    lr 2e-5 they are below half of a bf16 unit in the last place of a typical weight.
    """

    kind = "data"

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, weight_decay: float, group: Group) -> None:
        self._model, self._group = model, group
        self.copies: dict[str, Parameter] = {}
        self.masters: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.copies[name] = parameter
                self.masters[name] = parameter.detach().float()  # float32 compute: master and copy share their memory
            if parameter.is_floating_point():  # what is quantised stays as it is
                parameter.data = parameter.data.to(compute_dtype)
        self._buffers = {name: torch.empty_like(master) for name, master in self.masters.items()}
        for name, parameter in self.copies.items():
            parameter.register_post_accumulate_grad_hook(lambda copy, name=name: self._collect(name, copy))
        self._optimizer = make_optimizer(list(self.masters.values()), weight_decay)

    def _collect(self, name: str, copy: Tensor) -> None:
        master, gradient = self.masters[name], copy.grad
        assert gradient is not None
        if master.grad is None:
            master.grad = self._buffers[name].copy_(gradient)
        else:
            master.grad.add_(gradient)
        copy.grad = None

    @property
    def num_trainable(self) -> int:
        return sum(master.numel() for master in self.masters.values())

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor:
        """As `batch_loss`."""
        return batch_loss(self._model, batch, num_predicted)

    def add_up_gradients(self) -> None:
        """Add up the gradients of all processes."""
        self._group.add_up([master.grad for master in self.masters.values()])

    def gradient_norm(self, clip_norm: float) -> float:
        """Norm of the gradient before it is clipped to ``clip_norm``."""
        return float(torch.nn.utils.clip_grad_norm_(self.masters.values(), clip_norm))

    def update(self, learning_rate: float) -> None:
        """One AdamW step; the model's copies follow."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        for name in self.copies:
            self._refresh_copy(name)

    def _refresh_copy(self, name: str) -> None:
        copy, master = self.copies[name], self.masters[name]
        if copy.data_ptr() != master.data_ptr():
            copy.detach().copy_(master)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything a later step depends on, by name: masters and both moments (float32)."""
        for name, master in self.masters.items():
            yield f"master.{name}", master
            for moment in MOMENTS:
                yield f"{moment}.{name}", self._optimizer.state[master][moment]

    def tensor_to_restore(self, name: str) -> Tensor:
        """An empty tensor for what `state` calls ``name``."""
        return torch.empty_like(self.masters[name.partition(".")[2]])

    def restore(self, name: str, whole: Tensor, step: int) -> None:
        """Take up what `state` calls ``name``, as it was after ``step`` updates."""
        kind, _, of = name.partition(".")
        if kind == "master":
            self.masters[of].copy_(whole)
            self._refresh_copy(of)
        else:
            moments_to_restore(self._optimizer, self.masters[of], step)[kind] = whole

    def finish(self) -> None:
        """Nothing: the masters are whole in every process."""
