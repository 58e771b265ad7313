"""Which operation's output feeds which linear layers, so that a scale can move from one into the other; and its proof."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biomistral.errors import UserError


@dataclass(frozen=True)
class Mapping:
    """``previous`` (a norm or a linear layer) is divided by the scales, the inputs of ``consumers`` are multiplied."""

    previous: str
    consumers: tuple[str, ...]


ATTENTION = Mapping("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
OUTPUT = Mapping("self_attn.v_proj", ("self_attn.o_proj",))
MLP = Mapping("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))
DOWN = Mapping("mlp.up_proj", ("mlp.down_proj",))
INPUTS = (ATTENTION, OUTPUT, MLP, DOWN)
LINEARS = tuple(name for mapping in INPUTS for name in mapping.consumers)
NOT_CLIPPED = ("self_attn.q_proj", "self_attn.k_proj")  # their errors meet in a product: AWQ leaves their ranges alone


def check_structure(layer: nn.Module, family: str) -> None:
    """
    Raises:
        UserError: the decoder layer is not made of the parts that the mappings name.
    """
    parts = dict(layer.named_modules())
    linears = {name for name, module in parts.items() if isinstance(module, nn.Linear)}
    missing = [name for name in LINEARS if name not in linears]
    extra = sorted(linears - set(LINEARS))
    missing += [mapping.previous for mapping in (ATTENTION, MLP) if mapping.previous not in parts]
    if missing or extra:
        what = f"its decoder layers have no '{missing[0]}'" if missing else f"its decoder layers also hold '{extra[0]}'"
        raise UserError(f"architecture '{family}' cannot be quantised: {what}; supported are models with the layers of "
                        "Llama, Mistral or Qwen2")


def can_fold(layer: nn.Module, mapping: Mapping) -> bool:
    """Whether each output of ``previous`` feeds one input of the consumers: not from v to o with grouped-query attention.

    Sharing scales among the queries of a group would be exact too; measured on SmolLM2 it changes perplexity by 0.1 %.
    """
    outputs = layer.get_submodule(mapping.previous).weight.shape[0]
    return bool(outputs == layer.get_submodule(mapping.consumers[0]).in_features)


def fold(layer: nn.Module, mapping: Mapping, scales: Tensor, stored: torch.dtype) -> Tensor:
    """Move scales (K,) from the previous operation into its consumers, in place; returns the scales as moved.

    A norm's new weight is rounded to ``stored``, the dtype it is written in, and the scales follow the rounded weight:
    then writing it loses nothing.
    """
    previous = layer.get_submodule(mapping.previous)
    with torch.no_grad():
        if isinstance(previous, nn.Linear):
            previous.weight.div_(scales[:, None])
        else:
            scales = _move_into_norm(previous, scales, stored)
        if getattr(previous, "bias", None) is not None:
            previous.bias.div_(scales)
        for name in mapping.consumers:
            layer.get_submodule(name).weight.mul_(scales)
    return scales


def _move_into_norm(norm: nn.Module, scales: Tensor, stored: torch.dtype) -> Tensor:
    weight = norm.get_parameter("weight")
    divided = (weight / scales).to(stored).to(weight.dtype)
    exact = torch.where((weight == 0) | (divided == 0), 1.0, weight / divided)
    weight.copy_(torch.where(divided == 0, weight, divided))
    return exact


def prove(layer: nn.Module, call: dict[str, object], hidden: Tensor, family: str) -> None:
    """Show on random float64 input (1, T, hidden) that moving scales leaves the layer's function as it was.

    The layer must be in float64; its weights are changed. Norms compute in float32 inside, hence the tolerance.

    Raises:
        UserError: the function changed: the mappings do not hold for this architecture.
    """
    with torch.inference_mode():
        before = layer(hidden, **call)
        generator = torch.Generator().manual_seed(0)
        for mapping in (mapping for mapping in INPUTS if can_fold(layer, mapping)):
            inputs = layer.get_submodule(mapping.consumers[0]).in_features
            scales = torch.rand(inputs, generator=generator, dtype=torch.float64) * 1.5 + 0.5
            fold(layer, mapping, scales.to(hidden.device), torch.float64)
        after = layer(hidden, **call)
    change = float((after - before).norm() / (before - hidden).norm())
    if not change < 1e-5:
        raise UserError(f"architecture '{family}' cannot be quantised with awq: moving scales between its operations "
                        f"changes a decoder layer's output by {change:.1e}; use --method rtn")
