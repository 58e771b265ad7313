"""FSDP2: master weights and their AdamW in as many parts as there are processes, gathered layer by layer to compute."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from biomistral.training.batch import MicroBatch, batch_loss
from biomistral.training.parallel import Group
from biomistral.training.weights import MOMENTS, make_optimizer, moments_to_restore


class _LossOf(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A model whose forward pass is its loss: the embedding and the head are whole only inside the root's forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch, num_predicted: int) -> Tensor:
        return batch_loss(self.model, batch, num_predicted)


class ShardedWeights:
    """What `MasterWeights` is, with a model whose parameters are themselves the float32 masters, each process holding a part.

    Each layer is gathered in ``compute_dtype`` before it computes and freed after it; gradients are added up in float32 and
    scattered (ZeRO stage 3, Rajbhandari et al. 2020). The embedding, the last norm and the head form the root's own part.
    """

    kind = "fsdp"

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, weight_decay: float, group: Group) -> None:
        self._group, self._model = group, model
        self._mesh = init_device_mesh(group.device.type, (group.size,))
        policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
        self._root = _LossOf(model)
        for module in [*model.get_decoder().layers, self._root]:
            fully_shard(module, mesh=self._mesh, mp_policy=policy)
            module.set_gradient_divide_factor(1.0)  # the loss is already divided by the tokens of all processes
            module.set_force_sum_reduction_for_comms(True)
        self._parts = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._optimizer = make_optimizer(list(self._parts.values()), weight_decay)
        self.masters: dict[str, Tensor] = {}

    @property
    def num_trainable(self) -> int:
        return sum(part.numel() for part in self._parts.values())

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor:
        """As `batch_loss`; every process must call it equally often."""
        loss: Tensor = self._root(batch, num_predicted)
        return loss

    def add_up_gradients(self) -> None:
        """Nothing: each backward pass has already done it."""

    def gradient_norm(self, clip_norm: float) -> float:
        """Norm of the gradient before it is clipped to ``clip_norm``."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self._parts.values(), clip_norm)
        return float(norm.full_tensor())

    def update(self, learning_rate: float) -> None:
        """One AdamW step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """As `MasterWeights.state`; each whole tensor is gathered as it is asked for, and must be by every process."""
        for name, part in self._parts.items():
            yield f"master.{name}", _whole(part)
            for moment in MOMENTS:
                yield f"{moment}.{name}", _whole(self._optimizer.state[part][moment])

    def tensor_to_restore(self, name: str) -> Tensor:
        """An empty tensor for the whole of what `state` calls ``name``."""
        return torch.empty(self._parts[name.partition(".")[2]].shape, device=self._group.device)

    def restore(self, name: str, whole: Tensor, step: int) -> None:
        """Take up this process's part of what `state` calls ``name``, as it was after ``step`` updates."""
        kind, _, of = name.partition(".")
        part = self._parts[of]
        mine = distribute_tensor(whole, self._mesh, part.placements, src_data_rank=None)
        if kind == "master":
            part.detach().copy_(mine)
        else:
            moments_to_restore(self._optimizer, part, step)[kind] = mine

    def finish(self) -> None:
        """Gather the trained weights into ``masters``, on the CPU of the first process alone."""
        self._root.reshard()  # an evaluation leaves the root's part whole, and FSDP would put its parts back when saved
        for name, part in self._parts.items():
            whole = _whole(part)
            if self._group.leads:
                self.masters[name] = whole.cpu()


def _whole(part: Tensor) -> Tensor:
    whole: Tensor = part.detach().full_tensor() if isinstance(part, DTensor) else part.detach()
    return whole
