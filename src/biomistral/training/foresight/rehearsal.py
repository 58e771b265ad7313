"""Activations foreseen: one micro-batch run forwards and backwards on tensors without storage, counting what would be held.

The code that trains is the code that is rehearsed, so recomputation, adapters, the loss in chunks and attention's kept
probabilities are counted as they are. Two layers are, in 0.1 s whatever their size; each further one keeps what the second kept.
"""

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AttentionInterface, PreTrainedModel

from biomistral.training.compute.attention import use_isolated_attention
from biomistral.training.compute.fused import fusible_norms
from biomistral.training.compute.loss import CHUNK_ELEMENTS, chunked_cross_entropy
from biomistral.training.compute.recompute import use_recomputation
from biomistral.training.compute.segments import Segments
from biomistral.training.compute.short_attention import LONGEST
from biomistral.training.data.batch import MicroBatch, final_hidden

_REHEARSED = "biomistral_rehearsed"
_LAYERS = 2
_FLOAT32_LOGITS = 8  # bytes: a GPU takes a chunk's logits to float32 in one piece, twice for a moment


class _Held(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Counts the bytes of all storages made and not yet freed, the ``model``'s own left out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]), 0)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        found = function(*arguments, **(named or {}))
        for tensor in tree_iter(found):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, place: int) -> None:
        self.now -= self._sizes.pop(place)


class _Attention(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """What torch's own kernels hold, on a GPU and for long segments on a CPU: inputs, output, a float32 a query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, sums = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _rehearsed_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           **others: Any) -> tuple[Tensor, None]:
    output: Tensor = _Attention.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None


class _Norm(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """What `fused` holds of a norm: its input and a float32 a row; its tiles would be thousands of steps for nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _rehearsed_norm(self: nn.Module, hidden_states: Tensor) -> Tensor:
    output: Tensor = _Norm.apply(hidden_states, self.weight)
    return output


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def _prepare(model: PreTrainedModel, checkpointing: str, length: int, on_cpu: bool) -> None:
    """As `start.train` prepares a model, and as `weights.MasterWeights` takes its gradients."""
    model.to("meta")  # its buffers too
    if on_cpu and length <= LONGEST:
        use_isolated_attention(model)
    else:
        AttentionInterface.register(_REHEARSED, _rehearsed_attention)
        model.set_attn_implementation(_REHEARSED)
    if on_cpu:
        for norm in fusible_norms(model):
            norm.forward = MethodType(_rehearsed_norm, norm)
    use_recomputation(model, checkpointing)
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop)


def _run(model: PreTrainedModel, tokens: int, length: int) -> tuple[int, int]:
    """Bytes kept after a forward pass, and at the peak of forward, loss and backward."""
    ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
    batch = MicroBatch(ids, ids, ids, Segments([length] * (tokens // length)))
    with _Held(model) as held:
        hidden = final_hidden(model, batch)
        kept = held.now
        loss = chunked_cross_entropy(hidden, model.get_output_embeddings().weight, ids[0], tokens)
        hidden.backward(torch.empty_like(hidden))
        del loss  # held until here: the gradient of a tied head waits for the embedding's
    return kept, held.peak


def activation_bytes(make: Callable[[int], PreTrainedModel], layers: int, checkpointing: str, tokens: int, length: int,
                     on_cpu: bool) -> int:
    """Most bytes held at once by forward, loss and backward of ``tokens`` in segments of ``length``, without the weights.

    ``make`` builds the first so many of the model's ``layers`` on the meta device, in the precision computed in; ``on_cpu`` says
    whose forms of attention, norms and loss are meant: a CPU's or a GPU's.
    """
    most = min(layers, _LAYERS)
    found = []
    for number in range(max(1, most - 1), most + 1):
        model = make(number)
        _prepare(model, checkpointing, length, on_cpu)
        found.append(_run(model, tokens, length))
    each = found[-1][0] - found[0][0]
    return found[-1][1] + (layers - most) * each + (0 if on_cpu else _FLOAT32_LOGITS * CHUNK_ELEMENTS)
