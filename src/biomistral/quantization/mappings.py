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
    linears = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    missing = [name for name in LINEARS if name not in linears]
    extra = sorted(linears - set(LINEARS))
    parts = dict(layer.named_modules())
    missing += [mapping.previous for mapping in (ATTENTION, MLP) if mapping.previous not in parts]
    if missing or extra:
        what = f"its decoder layers have no '{missing[0]}'" if missing else f"its decoder layers also hold '{extra[0]}'"
        raise UserError(f"architecture '{family}' cannot be quantised: {what}; supported are models with the layers of "
                        "Llama, Mistral or Qwen2")


def mappings_of(layer: nn.Module) -> tuple[Mapping, ...]:
    """The mappings whose scales can be moved: v -> o only if every value channel feeds one input of o (no grouped queries)."""
    value, output = layer.get_submodule("self_attn.v_proj"), layer.get_submodule("self_attn.o_proj")
    return tuple(mapping for mapping in INPUTS if mapping is not OUTPUT or value.out_features == output.in_features)


def fold(layer: nn.Module, mapping: Mapping, scales: Tensor) -> Tensor:
    """Move scales (K,) from the previous operation into its consumers, in place; returns the scales as moved.

    A norm's new weight is first rounded to bfloat16 or float16 if its model is stored so, and the scales follow the
    rounded weight: then storing it loses nothing.
    """
    previous = layer.get_submodule(mapping.previous)
    if not isinstance(previous, nn.Linear):
        scales = _storable(previous.weight, scales)
    with torch.no_grad():
        previous.weight.div_(scales[:, None] if previous.weight.ndim == 2 else scales)
        if getattr(previous, "bias", None) is not None:
            previous.bias.div_(scales)
        for name in mapping.consumers:
            layer.get_submodule(name).weight.mul_(scales)
    return scales
