"""float32 master weights and their AdamW, behind a model that computes in another precision."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from biomistral.models.skeleton import homes
from biomistral.models.stored import StoredWeights, read_whole
from biomistral.training.data.batch import MicroBatch, batch_loss, check_model
from biomistral.training.parallel import Group
from biomistral.training.weights.buckets import Buckets
from biomistral.training.weights.optimizer import make_optimizer, prepare_moments, state_of


class Weights(Protocol):
    """Trained weights, whole in every process (`MasterWeights`) or in parts (`sharded.ShardedWeights`).

    ``masters`` are the trained weights by name: at any time, or for parts once `finish` has gathered them.
    """

    kind: str
    in_parts: bool
    masters: dict[str, Tensor]

    @property
    def num_trainable(self) -> int: ...

    @property
    def num_held(self) -> int: ...

    def check(self) -> None: ...

    def run(self, compute: Callable[[], Any]) -> Any: ...

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor: ...

    def backward(self, loss: Tensor, last: bool) -> None: ...

    def gradient_norm(self, clip_norm: float) -> float: ...

    def update(self, learning_rate: float) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def room_for_state(self, step: int) -> dict[str, Tensor]: ...

    def restored(self) -> None: ...

    def finish(self, dtype: torch.dtype) -> None: ...


class MasterWeights:
    """Masters of a model's trainable parameters; the model itself holds copies in ``compute_dtype``.

    Parameters that are still on disk are read one after the other, straight into what is kept of them: a frozen one never
    takes more than ``compute_dtype``, a trained one its master and its copy.

    Gradients arrive in the compute dtype, are added up in float32 over the micro-batches of a step, and are freed as soon
    as they have been added, so only one parameter's gradient exists twice. bf16 alone would lose most AdamW steps: at
    lr 2e-5 they are below half of a bf16 unit in the last place of a typical weight.
    """

    kind, in_parts = "data", False

    def __init__(self, model: PreTrainedModel, stored: StoredWeights | None, compute_dtype: torch.dtype, weight_decay: float,
                 group: Group, optimizer: str = "adamw") -> None:
        self._model, self._group = model, group
        self.copies: dict[str, Parameter] = {}
        self.masters: dict[str, Tensor] = {}
        self._take_up(stored, compute_dtype)
        model.to(group.device)  # buffers, and what is quantised
        self._gradients = Buckets(self.masters, group)
        for name, copy in self.copies.items():
            copy.register_post_accumulate_grad_hook(lambda copy, name=name: self._collect(name, copy))
        self._optimizer = make_optimizer(list(self.masters.values()), weight_decay, optimizer)

    def _take_up(self, stored: StoredWeights | None, compute_dtype: torch.dtype) -> None:
        """Give every parameter its values on the device: trained ones a master too (in float32 the two share their memory)."""
        places = homes(self._model)
        for name in [name for name, _ in self._model.named_parameters()]:
            old = self._model.get_parameter(name)
            here = places.pop(old)
            value = read_whole(stored, name, old)
            if not value.is_floating_point():  # what is quantised stays as it is
                continue
            kind = torch.float32 if old.requires_grad else compute_dtype
            value = value.to(self._group.device, kind, copy=old.is_meta)  # what is read may be a view of the file
            new = Parameter(value.to(compute_dtype), requires_grad=old.requires_grad)
            if old.requires_grad:
                self.masters[name], self.copies[name] = value, new
            for module, attribute in here:
                setattr(module, attribute, new)

    def _collect(self, name: str, copy: Tensor) -> None:
        assert copy.grad is not None
        self._gradients.add(name, copy.grad)
        copy.grad = None

    @property
    def num_trainable(self) -> int:
        return sum(master.numel() for master in self.masters.values())

    @property
    def num_held(self) -> int:
        """Trainable weights whose state this process holds: all."""
        return self.num_trainable

    def check(self) -> None:
        """As `check_model`."""
        check_model(self._model, self._group.device)

    def run(self, compute: Callable[[], Any]) -> Any:
        """Call what computes something else with the model."""
        return compute()

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor:
        """As `batch_loss`."""
        return batch_loss(self._model, batch, num_predicted)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradient to the step's; with the ``last`` one also over all processes."""
        self._gradients.begin(last)
        loss.backward()
        if last:
            self._gradients.finish()

    def gradient_norm(self, clip_norm: float) -> float:
        """Norm of the gradient before it is clipped to ``clip_norm``."""
        return float(torch.nn.utils.clip_grad_norm_(self.masters.values(), clip_norm))

    def update(self, learning_rate: float) -> None:
        """One AdamW step; the model's copies follow."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.restored()

    def state(self) -> dict[str, Tensor]:
        """As `state_of`."""
        return state_of(self.masters, self._optimizer)

    def room_for_state(self, step: int) -> dict[str, Tensor]:
        """`state` of after ``step`` updates, to be filled; `restored` is called then."""
        prepare_moments(self.masters, self._optimizer, step)
        return self.state()

    def restored(self) -> None:
        """The masters have changed: the model's copies follow."""
        for name, copy in self.copies.items():
            if copy.data_ptr() != self.masters[name].data_ptr():
                copy.detach().copy_(self.masters[name])

    def finish(self, dtype: torch.dtype) -> None:
        """Nothing: the masters are whole in every process."""
