"""Hidden states of a model, loaded or read from the disk layer by layer, as they pass, and its logits from the last of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biomistral.models import skeleton
from biomistral.models.stored import StoredWeights, open_model
from biomistral.scoring.engine import AnswerHead


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers, in order; an empty list for a model that keeps them elsewhere than its base model's lists."""
    found = getattr(model.base_model, "layers", None)
    if isinstance(found, nn.ModuleList):
        return found
    return next((child for child in model.base_model.children() if isinstance(child, nn.ModuleList)), nn.ModuleList())


def open_streamed(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A 16-bit model of which one decoder layer at a time is in memory: each is read before it runs, and left after.

    An architecture that only a full load builds is loaded whole.

    Raises:
        UserError: see `biomistral.models.stored.open_model`.
    """
    model, stored = open_model(folder, dtype)
    if stored is None:
        return model.to(device)
    layers = decoder_layers(model)
    names = {layer: name for name, layer in model.named_modules() if layer in set(layers)}
    inside = tuple(f"{name}." for name in names.values())
    around = {name: stored.read(name) for name, _ in model.named_parameters() if not name.startswith(inside)}
    skeleton.fill(model, around, dtype, device, strict=False)
    model.tie_weights()
    for layer, name in names.items():
        _read_when_run(layer, name, stored, dtype, device)
    return model


def _read_when_run(layer: nn.Module, name: str, stored: StoredWeights, dtype: torch.dtype, device: torch.device) -> None:
    def read(*_: Any) -> None:
        tensors = {part: stored.read(f"{name}.{part}") for part, _ in layer.named_parameters()}
        skeleton.fill(layer, tensors, dtype, device, strict=False)

    def leave(*_: Any) -> None:
        for module in layer.modules():
            for part, parameter in module.named_parameters(recurse=False):
                setattr(module, part, nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))

    layer.register_forward_pre_hook(read)
    layer.register_forward_hook(leave)


class _Keeper(nn.Module):  # type: ignore[misc]
    """Stands where the output head is and keeps what would have entered it."""

    seen: Tensor

    def forward(self, hidden: Tensor) -> Tensor:
        self.seen = hidden
        return hidden[..., :1]


@contextmanager
def _seen_layers(model: PreTrainedModel, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While the model runs, show what leaves each decoder layer."""
    def show(index: int) -> Any:
        return lambda _, __, output: see(index, output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(show(index)) for index, layer in enumerate(decoder_layers(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _head(model: PreTrainedModel, other: nn.Module) -> Iterator[None]:
    """Another output head meanwhile."""
    own = model.get_output_embeddings()
    model.set_output_embeddings(other)
    try:
        yield
    finally:
        model.set_output_embeddings(own)


def final_hidden(model: PreTrainedModel, tokens: Tensor, see: Callable[[int, Tensor], None]) -> Tensor:
    """What enters the head, (T, hidden), of tokens (T,); ``see`` is shown each decoder layer's number and output on the way."""
    keeper = _Keeper()
    with torch.inference_mode(), _head(model, keeper), _seen_layers(model, see):
        model(input_ids=tokens[None].to(model.device), use_cache=False)
    return keeper.seen[0]


class Readout:
    """A model's logits from its final hidden states, with whatever its own forward does after the head.

    Float32 whatever the weights: bfloat16 logits are 0.1 apart near 20, more than 8 bits cost.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._answers, self._given = model, AnswerHead(model.get_output_embeddings()), _Given()
        self._answers.exact = True

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (rows, vocabulary), float32, of final hidden states (rows, hidden)."""
        rows = torch.arange(len(hidden), device=hidden.device)
        self._given.hidden, self._answers.read = hidden[None], (torch.zeros_like(rows), rows)
        with torch.inference_mode(), _head(self._model, self._answers), _body(self._model, self._given):
            logits: Tensor = self._model(input_ids=rows[None], use_cache=False).logits[0]
        return logits.float()


@contextmanager
def _body(model: PreTrainedModel, other: nn.Module) -> Iterator[None]:
    """Another module meanwhile where the model's body is."""
    own = model.base_model
    setattr(model, model.base_model_prefix, other)
    try:
        yield
    finally:
        setattr(model, model.base_model_prefix, own)


class _Given(nn.Module):  # type: ignore[misc]
    """Stands where the model's body is: its output is given."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> "_Output":
        return _Output(self.hidden)


class _Output:
    """What a body returns, whatever the architecture calls its parts: the hidden states, and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: int) -> Tensor:
        assert place == 0, "only the hidden states are given"
        return self.last_hidden_state
