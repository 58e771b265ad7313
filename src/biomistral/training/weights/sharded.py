"""FSDP2: master weights and their AdamW in as many parts as there are processes, gathered layer by layer to compute."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.models.skeleton import homes
from biomistral.models.stored import StoredWeights
from biomistral.training.data.batch import MicroBatch, batch_loss, check_model
from biomistral.training.parallel import Group
from biomistral.training.weights.optimizer import make_optimizer, prepare_moments, state_of


class _Whole(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A model and what is done with it: the embedding and the head are whole only inside the root's forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)


def num_shards(parallel: str, shard_processes: int | None, group: Group) -> int:
    """Into how many parts the weights are cut: all processes, or with ``hsdp`` those of one machine, or as many as set.

    Raises:
        UserError: the processes cannot be divided into groups of so many.
    """
    if parallel != "hsdp":
        return group.size
    shards = shard_processes or int(os.environ.get("LOCAL_WORLD_SIZE", group.size))
    if group.size % shards:
        raise UserError(f"parallel: hsdp, but {group.size} processes cannot be divided into groups of {shards}; set "
                        "shard_processes to a number that divides them")
    return shards


def _mesh(shards: int, group: Group) -> DeviceMesh:
    """The processes in a row, or for HSDP (replicas, shards): neighbours hold the parts of one copy."""
    if shards == group.size:
        return init_device_mesh(group.device.type, (shards,))
    return init_device_mesh(group.device.type, (group.size // shards, shards), mesh_dim_names=("replicas", "shards"))


class ShardedWeights:
    """What `MasterWeights` is, with a model whose parameters are themselves the float32 masters, each process holding a part.

    Each layer is gathered in ``compute_dtype`` before it computes and freed after it; gradients are added up in float32 and
    scattered (ZeRO stage 3, Rajbhandari et al. 2020). The embedding, the last norm and the head form the root's own part.
    With fewer ``shards`` than processes (HSDP) every group of so many holds a copy: layers are gathered within a group alone,
    and gradients are added up over the groups once a step.

    Of what is still on disk each process reads its own rows only, one parameter after the other, straight to its device.
    """

    in_parts = True

    def __init__(self, model: PreTrainedModel, stored: StoredWeights | None, compute_dtype: torch.dtype, weight_decay: float,
                 group: Group, shards: int) -> None:
        self._group, self._model = group, model
        self.kind = "fsdp" if shards == group.size else "hsdp"
        self._mesh = _mesh(shards, group)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(compute_dtype)
        policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
        self._root = _Whole(model)
        for module in [*model.get_decoder().layers, self._root]:
            fully_shard(module, mesh=self._mesh, mp_policy=policy)
            module.set_gradient_divide_factor(1.0)  # the loss is already divided by the tokens of all processes
            module.set_force_sum_reduction_for_comms(True)
        self._read_parts(stored)
        model.to(group.device)  # buffers
        self._parts = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._optimizer = make_optimizer(list(self._parts.values()), weight_decay)
        self.masters: dict[str, Tensor] = {}

    def _read_parts(self, stored: StoredWeights | None) -> None:
        """Put this process's rows where FSDP left a parameter without values; it takes them up in the first forward pass."""
        places = homes(self._model)
        for name, empty in list(self._model.named_parameters()):
            if not empty.is_meta:
                continue
            assert stored is not None
            start, stop = self._rows(empty)
            rows = stored.read_rows(name, start, stop).to(self._group.device, empty.dtype, copy=True)
            held = DTensor.from_local(rows, self._mesh, empty.placements, run_check=False, shape=empty.shape,
                                      stride=empty.stride())
            part = Parameter(held, requires_grad=empty.requires_grad)
            for module, attribute in places[empty]:
                setattr(module, attribute, part)

    def _rows(self, part: DTensor) -> tuple[int, int]:
        """First and last row (exclusive) of this process's part, as `torch.chunk` cuts them."""
        shards, rows = self._mesh.size(-1), len(part)
        height = -(-rows // shards)
        start = min(rows, height * self._mesh.get_local_rank(self._mesh.ndim - 1))
        stop = min(rows, start + height)
        assert len(part.to_local()) == stop - start
        return start, stop

    @property
    def num_trainable(self) -> int:
        return sum(part.numel() for part in self._parts.values())

    @property
    def num_held(self) -> int:
        """Trainable weights whose state this process holds."""
        return sum(part.to_local().numel() for part in self._parts.values())

    def check(self) -> None:
        """As `check_model`; every process must call it."""
        self._root(check_model, self._group.device)

    def run(self, compute: Callable[[], Any]) -> Any:
        """Call what computes something else with the model; every process must do so equally often."""
        return self._root(lambda model: compute())

    def loss(self, batch: MicroBatch, num_predicted: int) -> Tensor:
        """As `batch_loss`; every process must call it equally often."""
        loss: Tensor = self._root(batch_loss, batch, num_predicted)
        return loss

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradient to the step's, over the processes that hold the other parts; with the ``last`` one also
        over those that hold the same part.

        The parts could wait for the last one too, but then each process would hold the whole gradient until it comes.
        """
        if self.kind == "hsdp":
            self._root.set_requires_all_reduce(last)
        self._root.set_is_last_backward(last)
        loss.backward()

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

    def state(self) -> dict[str, Tensor]:
        """As `state_of`, each tensor a DTensor of which this process holds a part."""
        self._root.reshard()  # an evaluation leaves the root's part whole
        return state_of(self._parts, self._optimizer)

    def room_for_state(self, step: int) -> dict[str, Tensor]:
        """As `MasterWeights.room_for_state`."""
        prepare_moments(self._parts, self._optimizer, step)
        return self.state()

    def restored(self) -> None:
        """Nothing: the masters are the model's own weights."""

    def finish(self, dtype: torch.dtype) -> None:
        """Gather the trained weights into ``masters``, on the first process's CPU alone, each rounded to ``dtype`` at once."""
        self._root.reshard()  # else FSDP would put its parts back when the model is saved
        for name, part in self._parts.items():
            whole = part.detach().full_tensor()
            if self._group.leads:
                self.masters[name] = whole.to("cpu", dtype)
