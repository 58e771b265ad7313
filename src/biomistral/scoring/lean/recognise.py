"""Which decoder layers the lean ones can stand for: known by their parts, and proved on random numbers.

A layer is RMS norm, attention with rotary positions, residual, RMS norm, gated product, residual: Llama, Mistral, Qwen 2 and 3,
Gemma 1, Phi 3 and what is built alike. What is not recognised is computed by `transformers` as before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from biomistral.models.quantized.linear import IntLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DROPOUTS = {"resid_attn_dropout", "resid_mlp_dropout"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_ATTENTION = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
_GATED = ({"gate_proj", "up_proj", "down_proj", "act_fn"}, {"gate_up_proj", "down_proj", "activation_fn"})
_ROTARY = ("default", "linear", "llama3", "yarn")
"""Angles that depend on a token's position alone; others also on the longest position of a batch."""

ACTIVATIONS: tuple[Callable[..., Tensor], ...] = (functional.silu, partial(functional.gelu, approximate="tanh"))
"""As `pointwise.gate` numbers them."""


@dataclass(frozen=True)
class Norm:
    """RMS norm by a float32 gain: a weight and what is added to it."""

    gain: Tensor
    epsilon: float
    weight: Tensor
    added: int

    @classmethod
    def of(cls, weight: Tensor, added: int, epsilon: float) -> "Norm":
        return cls(weight.detach().float() + added, epsilon, weight, added)


@dataclass(frozen=True)
class Parts:
    """A decoder layer taken apart; ``window`` 0 is none, ``activation`` a place in `ACTIVATIONS`."""

    heads: int
    groups: int
    width: int
    window: int
    scale: float
    norms: tuple[Norm, Norm]
    head_norms: tuple[Norm, Norm] | None
    activation: int
    qkv: tuple[nn.Linear | IntLinear, ...]
    out: nn.Linear | IntLinear
    gate_up: tuple[nn.Linear | IntLinear, ...]
    down: nn.Linear | IntLinear

    def weights(self) -> Iterator[Tensor]:
        """All that its products multiply by."""
        return (weight for linear in (*self.qkv, self.out, *self.gate_up, self.down) for weight in linear.parameters())


def decoder_layers(model: "PreTrainedModel") -> nn.ModuleList | None:
    """The layers of a model in bfloat16 on a CPU, where positions are turned and masked as the lean layers do."""
    base = model.base_model
    layers, rotary = getattr(base, "layers", None), getattr(base, "rotary_emb", None)
    kinds = set(getattr(model.config, "layer_types", None) or ())
    fits = (isinstance(layers, nn.ModuleList) and getattr(rotary, "rope_type", None) in _ROTARY and model.dtype is torch.bfloat16
            and model.device.type == "cpu" and kinds <= {"full_attention", "sliding_attention"}
            and model.config._attn_implementation == "sdpa")
    return layers if fits else None


def take_apart(layer: nn.Module) -> Parts | None:
    """The parts of a layer; None if it has others than these."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    if attention is None or mlp is None or _names(layer) - _DROPOUTS != _LAYER:
        return None
    head_norms = _names(attention) & _HEAD_NORMS
    if _names(attention) - head_norms not in _ATTENTION or _names(mlp) not in _GATED or len(head_norms) == 1:
        return None
    qkv = _those(attention, "qkv_proj") or _those(attention, "q_proj", "k_proj", "v_proj")
    gate_up = _those(mlp, "gate_up_proj") or _those(mlp, "gate_proj", "up_proj")
    norms = _norms(layer.input_layernorm, layer.post_attention_layernorm)
    own_norms = _norms(attention.q_norm, attention.k_norm) if head_norms else None
    activation = _activation(getattr(mlp, "act_fn", None) or mlp.activation_fn)
    alike = all(_are_alike(*linears) for linears in (qkv, gate_up, (attention.o_proj,), (mlp.down_proj,)))
    if not alike or activation is None or norms is None or (own_norms is None and head_norms):
        return None
    width = int(attention.head_dim)
    return Parts(heads=attention.o_proj.in_features // width, groups=int(attention.num_key_value_groups), width=width,
                 window=_window(attention), scale=float(attention.scaling), norms=norms, head_norms=own_norms,
                 activation=activation, qkv=qkv, out=attention.o_proj, gate_up=gate_up, down=mlp.down_proj)


def _those(module: nn.Module, *names: str) -> tuple[nn.Linear | IntLinear, ...]:
    return tuple(getattr(module, name) for name in names) if hasattr(module, names[0]) else ()


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _are_alike(*linears: nn.Module) -> bool:
    """Whether layers can be one product: plain ones in bfloat16, or all in integers."""
    return (all(type(linear) is nn.Linear and linear.weight.dtype is torch.bfloat16 for linear in linears)
            or all(isinstance(linear, IntLinear) for linear in linears))


def _window(attention: nn.Module) -> int:
    """Keys that a query sees, its own among them; 0 is all."""
    owner = attention if hasattr(attention, "sliding_window") else attention.config
    return int(getattr(owner, "sliding_window", None) or 0)


def _norms(one: nn.Module, other: nn.Module) -> tuple[Norm, Norm] | None:
    first, second = norm_of(one), norm_of(other)
    return None if first is None or second is None else (first, second)


def norm_of(module: nn.Module) -> Norm | None:
    """The gain and epsilon of an RMS norm, by what it does: weights may be gains, or gains less 1."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(epsilon, float):
        return None
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    given = torch.as_tensor(module(x)).float()
    norms = (Norm.of(weight, added, epsilon) for added in (0, 1))
    return next((norm for norm in norms if close(functional.rms_norm(x.float(), weight.shape, norm.gain, epsilon), given)), None)


def _activation(module: nn.Module) -> int | None:
    x = torch.linspace(-8, 8, 257)
    return next((place for place, given in enumerate(ACTIVATIONS) if torch.allclose(module(x), given(x), atol=1e-6)), None)


def close(mine: Tensor, given: Tensor) -> bool:
    """Within some roundings to bfloat16, on average."""
    return bool((mine - given).norm() <= 0.02 * given.norm())


def kinds_of(layers: nn.ModuleList) -> Iterator[tuple[int, nn.Module]]:
    """One layer of each kind, with its place: kinds differ in their modules or in the plain attributes of their attention."""
    seen: set[str] = set()
    for place, layer in enumerate(layers):
        plain = {name: value for name, value in vars(layer.self_attn).items()
                 if isinstance(value, (int, float, str, type(None))) and name != "layer_idx"}
        if (kind := f"{layer}{sorted(plain.items())}") not in seen:
            seen.add(kind)
            yield place, layer


def agree(given: Tensor, mine: Tensor, hidden: Tensor) -> bool:
    """Whether two layers did the same to their input."""
    return given.shape == mine.shape and close((mine - hidden).float(), (given - hidden).float())
