"""float32 master weights and their AdamW, behind a model that computes in another precision."""

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class MasterWeights:
    """Masters of a model's trainable parameters; the model itself holds copies in ``compute_dtype``.

    Gradients arrive in the compute dtype, are added up in float32 over the micro-batches of a step, and are freed as soon
    as they have been added, so only one parameter's gradient exists twice. bf16 alone would lose most AdamW steps: at
    lr 2e-5 they are below half of a bf16 unit in the last place of a typical weight.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, weight_decay: float) -> None:
        self.copies: dict[str, Parameter] = {}
        self.masters: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.copies[name] = parameter
                self.masters[name] = parameter.detach().float()  # float32 compute: master and copy share their memory
            parameter.data = parameter.data.to(compute_dtype)
        self._buffers = {name: torch.empty_like(master) for name, master in self.masters.items()}
        for name, parameter in self.copies.items():
            parameter.register_post_accumulate_grad_hook(lambda copy, name=name: self._collect(name, copy))
        matrices = [master for master in self.masters.values() if master.ndim >= 2]
        vectors = [master for master in self.masters.values() if master.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=BETAS, eps=EPSILON,
                                            fused=True)

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

    def gradient_norm(self, clip_norm: float) -> float:
        """Norm of the gradient before it is clipped to ``clip_norm``."""
        return float(torch.nn.utils.clip_grad_norm_(self.masters.values(), clip_norm))

    def update(self, learning_rate: float) -> None:
        """One AdamW step; the model's copies follow."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._refresh()

    def _refresh(self) -> None:
        for name, copy in self.copies.items():
            if copy.data_ptr() != self.masters[name].data_ptr():
                copy.detach().copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Everything a later step depends on, by name: masters and both moments (float32)."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = self._optimizer.state[master][moment]
        return tensors

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take up the state of `state`, as it was after ``step`` updates."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            moments = {moment: tensors[f"{moment}.{name}"].to(master.device) for moment in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[master] = {"step": torch.tensor(float(step), device=master.device if master.is_cuda else None),
                                             **moments}
        self._refresh()
