"""Which decoder layers the lean ones can stand for: known by their parts, and proved on random numbers.

A layer is RMS norm, attention with rotary positions, residual, RMS norm, gated product, residual: Llama, Mistral, Qwen 2 and 3,
Gemma 1, Phi 3 and what is built alike. What is not recognised is computed by `transformers` as before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DROPOUTS = {"resid_attn_dropout", "resid_mlp_dropout"}
_ATTENTION = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
_GATED = ({"gate_proj", "up_proj", "down_proj", "act_fn"}, {"gate_up_proj", "down_proj", "activation_fn"})
_ROTARY = ("default", "linear", "llama3", "yarn")
"""Angles that depend on a token's position alone; others also on the longest position of a batch."""

ACTIVATIONS = (functional.silu, lambda x: functional.gelu(x, approximate="tanh"))
"""As `pointwise.gate` numbers them."""


@dataclass(frozen=True)
class Norm:
    """RMS norm with a float32 gain."""

    gain: Tensor
    epsilon: float


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
    qkv: tuple[nn.Linear, ...]
    out: nn.Linear
    gate_up: tuple[nn.Linear, ...]
    down: nn.Linear


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList | None:
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
    own_norms = _names(attention) & {"q_norm", "k_norm"}
    if _names(attention) - own_norms not in _ATTENTION or _names(mlp) not in _GATED or len(own_norms) == 1:
        return None
    joined = [attention.qkv_proj] if hasattr(attention, "qkv_proj") else [attention.q_proj, attention.k_proj, attention.v_proj]
    gates = [mlp.gate_up_proj] if hasattr(mlp, "gate_up_proj") else [mlp.gate_proj, mlp.up_proj]
    linears = (*joined, attention.o_proj, *gates, mlp.down_proj)
    norms = [_norm(one) for one in (layer.input_layernorm, layer.post_attention_layernorm)]
    head_norms = [_norm(getattr(attention, name)) for name in sorted(own_norms, reverse=True)]
    activation = _activation(getattr(mlp, "act_fn", None) or mlp.activation_fn)
    if not all(map(_is_plain, linears)) or None in (*norms, *head_norms, activation):
        return None
    width = int(attention.head_dim)
    return Parts(heads=attention.o_proj.in_features // width, groups=int(attention.num_key_value_groups), width=width, window=_window(attention),
                 scale=float(attention.scaling), norms=(norms[0], norms[1]),
                 head_norms=(head_norms[0], head_norms[1]) if head_norms else None, activation=activation, qkv=tuple(joined),
                 out=attention.o_proj, gate_up=tuple(gates), down=mlp.down_proj)


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_plain(linear: nn.Module) -> bool:
    return type(linear) is nn.Linear and linear.weight.dtype is torch.bfloat16


def _window(attention: nn.Module) -> int:
    """Keys that a query sees, its own among them; 0 is all."""
    found = attention.sliding_window if hasattr(attention, "sliding_window") else getattr(attention.config, "sliding_window", None)
    return int(found or 0)


def _norm(module: nn.Module) -> Norm | None:
    """The gain and epsilon of an RMS norm, by what it does: weights may be gains, or gains less 1."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(epsilon, float):
        return None
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    given = module(x).float()
    for gain in (weight.float(), weight.float() + 1):
        mine = functional.rms_norm(x.float(), weight.shape, gain, epsilon)
        if _close(mine, given):
            return Norm(gain, epsilon)
    return None


def _activation(module: nn.Module) -> int | None:
    x = torch.linspace(-8, 8, 257)
    return next((place for place, known in enumerate(ACTIVATIONS) if torch.allclose(module(x), known(x), atol=1e-6)), None)


def _close(mine: Tensor, given: Tensor) -> bool:
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
    return given.shape == mine.shape and _close((mine - hidden).float(), (given - hidden).float())
