"""Activations that flow through a model one decoder layer at a time, and what the searches need to know of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.errors import UserError
from biomistral.quantization.calibrated.awq import fast_products


class _Recorder(nn.Module):  # type: ignore[misc]
    """Stands where a decoder layer is, notes how the model calls it, and passes the hidden states on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)
        self.call: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **call: Any) -> Tensor:
        self.call = call
        return hidden_states


def first_hidden(model: PreTrainedModel, sequences: Tensor) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """What enters the first layer, (1, T, hidden) a sequence, and the arguments with which each layer is called.

    Only the embeddings need their weights: masks and rotary embeddings come from the model's own forward.
    """
    decoder: Any = model.base_model
    layers, norm = decoder.layers, decoder.norm
    recorders = nn.ModuleList(_Recorder(layer) for layer in layers)
    decoder.layers, decoder.norm = recorders, nn.Identity()
    try:
        with torch.inference_mode():
            hidden = [decoder(input_ids=sequence[None], use_cache=False).last_hidden_state for sequence in sequences]
    finally:
        decoder.layers, decoder.norm = layers, norm
    return hidden, [recorder.call for recorder in recorders]


def run_layer(layer: nn.Module, call: dict[str, Any], hidden: Sequence[Tensor], what: str) -> list[Tensor]:
    """Each sequence's hidden states after the layer.

    Raises:
        UserError: they are no longer finite; ``what`` names the layer.
    """
    with torch.inference_mode():
        outputs = [layer(states, **call) for states in hidden]
    if not all(bool(torch.isfinite(states).all()) for states in outputs):
        raise UserError(f"{what}: its activations hold NaN or infinite values; the weights are damaged, or its dtype is "
                        "too narrow for them")
    return outputs


class Statistics:
    """Of the inputs X (T, K) of a linear layer: X'X, the sum of |x| by input, and the number of rows; float32."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.gram = torch.zeros(inputs, inputs, device=device)
        self.magnitude = torch.zeros(inputs, device=device)
        self.rows = 0

    def add(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        with fast_products() if x.dtype == torch.bfloat16 else nullcontext():  # float32 inputs would lose by it
            self.gram.addmm_(rows.T, rows)
        self.magnitude += rows.abs().sum(0)
        self.rows += rows.shape[0]

    @property
    def mean(self) -> Tensor:
        """Mean of |x| by input, (K,)."""
        return self.magnitude / self.rows


@contextmanager
def watch(layer: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Statistics]]:
    """While the layer runs, collect the statistics of the inputs of its linear layers ``names``."""
    found: dict[str, Statistics] = {}
    handles = []
    for name in names:
        linear = layer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        found[name] = Statistics(linear.in_features, linear.weight.device)
        handles.append(linear.register_forward_pre_hook(
            lambda _, arguments, statistics=found[name]: statistics.add(arguments[0])))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
