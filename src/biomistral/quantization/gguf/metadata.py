"""A model's configuration as GGUF fields; what llama.cpp would compute otherwise than transformers is refused."""

import math
from typing import Any

from biomistral.errors import UserError
from biomistral.models.gguf_config import WIDTH_SCALED
from biomistral.models.gguf_layout import Architecture
from biomistral.quantization.gguf.rope import rope_fields, rope_of

_ACTIVATIONS = {"gemma": "gelu_pytorch_tanh", "gemma2": "gelu_pytorch_tanh", "gemma3": "gelu_pytorch_tanh"}
_PERIODS = {"gemma2": 2, "gemma3": 6}  # of so many layers the last sees everything, the others a window


def head_width(config: Any) -> int:
    """Numbers a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rotated_width(config: Any) -> int:
    """Numbers of a head that are rotated."""
    share = getattr(config, "partial_rotary_factor", None) or (config.rope_parameters or {}).get("partial_rotary_factor") or 1.0
    return int(head_width(config) * share)


def model_fields(config: Any, architecture: Architecture, where: object) -> dict[str, Any]:
    """The fields ``<architecture>.*``.

    Raises:
        UserError: llama.cpp computes this architecture without something that this model has.
    """
    arch, width = architecture.name, head_width(config)
    _check_activation(config, arch, where)
    _check_width(config, architecture, where)
    return {
        f"{arch}.vocab_size": config.vocab_size,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": width,
        f"{arch}.attention.value_length": width,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        **rope_fields(config, arch, rotated_width(config), where),
        **_window(config, arch, where),
        **_caps(config, arch, where),
    }


def remarks(config: Any, architecture: Architecture) -> list[str]:
    """What llama.cpp leaves out of this model, though it computes the rest as transformers does."""
    found = []
    if window := _unused_window(config, architecture.name):
        found.append(f"llama.cpp lets every token see all before it; the model's own window is {window} tokens")
    if rope_of(config)[0].get("rope_type") == "longrope":
        found.append("llama.cpp chooses between LongRoPE's short and long factors by the size of its context, transformers by "
                     "the length of the text")
    return found


def _unused_window(config: Any, arch: str) -> int:
    """The sliding window, if the model has one and llama.cpp's architecture none; it matters to texts longer than that."""
    window: int | None = getattr(config, "sliding_window", None)
    if window is None or arch in _PERIODS or not getattr(config, "use_sliding_window", True):
        return 0
    return window if window < config.max_position_embeddings else 0


def _check_activation(config: Any, arch: str, where: object) -> None:
    expected = _ACTIVATIONS.get(arch, "silu")
    found = getattr(config, "hidden_activation", None) or config.hidden_act
    if found != expected:
        raise UserError(f"{where}: its activation is {found}, llama.cpp computes architecture '{arch}' with {expected}; choose "
                        "another --method")


def _check_width(config: Any, architecture: Architecture, where: object) -> None:
    """Some architectures are computed with the width of a head that follows from the others, or with every number rotated."""
    width, derived = head_width(config), config.hidden_size // config.num_attention_heads
    if architecture.name in ("qwen2", "phi3") and width != derived:
        raise UserError(f"{where}: its heads are {width} wide, llama.cpp computes architecture '{architecture.name}' with "
                        f"{derived}; choose another --method")
    if architecture.name != "phi3" and rotated_width(config) != width:
        raise UserError(f"{where}: rotates {rotated_width(config)} of {width} numbers a head, llama.cpp all of them for "
                        f"architecture '{architecture.name}'; choose another --method")


def _window(config: Any, arch: str, where: object) -> dict[str, Any]:
    """The sliding window; of Gemma the layers that have one must be those that llama.cpp takes for them."""
    window = getattr(config, "sliding_window", None)
    if arch not in _PERIODS:
        return {f"{arch}.attention.sliding_window": window or 0} if arch == "phi3" else {}
    expected = ["full_attention" if (layer + 1) % _PERIODS[arch] == 0 else "sliding_attention"
                for layer in range(config.num_hidden_layers)]
    if list(config.layer_types) != expected:
        raise UserError(f"{where}: its layers see a window or everything in another order than llama.cpp's for architecture "
                        f"'{arch}' (every {_PERIODS[arch]}th sees everything); choose another --method")
    return {f"{arch}.attention.sliding_window": window}


def _caps(config: Any, arch: str, where: object) -> dict[str, Any]:
    """Gemma's soft caps, and its scale of queries, which llama.cpp derives from the shape."""
    if arch not in _PERIODS:
        return {}
    by_shape = head_width(config)
    if config.num_hidden_layers == WIDTH_SCALED[arch]:
        by_shape = config.hidden_size // config.num_attention_heads
    if not math.isclose(config.query_pre_attn_scalar, by_shape):
        raise UserError(f"{where}: scales queries by 1/sqrt({config.query_pre_attn_scalar}), llama.cpp by 1/sqrt({by_shape}) for "
                        "a model of this shape; choose another --method")
    if getattr(config, "use_bidirectional_attention", None):
        raise UserError(f"{where}: attends in both directions; llama.cpp would not, choose another --method")
    attention, final = config.attn_logit_softcapping, config.final_logit_softcapping
    if (attention is None) != (arch == "gemma3") or (final is None and arch == "gemma2"):
        raise UserError(f"{where}: attn_logit_softcapping is {attention}, final_logit_softcapping {final}; llama.cpp computes "
                        f"{'gemma3 without the first' if arch == 'gemma3' else 'gemma2 with both'}, choose another --method")
    caps = {f"{arch}.attn_logit_softcapping": attention, f"{arch}.final_logit_softcapping": final}
    return {name: float(value) for name, value in caps.items() if value}
