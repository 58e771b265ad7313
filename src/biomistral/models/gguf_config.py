"""What a GGUF file says of its architecture, as transformers' configuration.

transformers' own reader takes no notice of rotary scaling or of Llama's biases, and gives other numbers without a word; here what
is not understood is refused.
"""

from collections.abc import Callable
from typing import Any

from biomistral.errors import UserError
from biomistral.models.gguf_file import GGUFFile
from biomistral.models.gguf_layout import ARCHITECTURES
from biomistral.models.gguf_rope import rope_of_factors

FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
"""Tensors that transformers computes from the configuration."""
WIDTH_SCALED = {"gemma2": 46, "gemma3": 62}  # layers of the sizes whose queries llama.cpp scales by width a head, not head width
_DERIVED_WIDTH = ("qwen2", "phi3")  # no heads of a width of their own
_MORE_OF_YARN = ("yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier")
_MODEL_TYPES = {architecture.name: model_type for model_type, architecture in reversed(ARCHITECTURES.items())}


class _Fields:
    """The fields of one architecture, by the part of their name after it."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file, self._architecture = file, architecture

    def __call__(self, name: str, *default: Any) -> Any:
        found = self._file.fields.get(f"{self._architecture}.{name}", *default)
        if found is None and not default:
            raise UserError(f"{self._file.path}: lacks the field '{self._architecture}.{name}'; the file is damaged")
        return found


def is_known(file: GGUFFile) -> bool:
    """Whether the file's architecture is one that `config_of` reads."""
    return file.fields.get("general.architecture") in _MODEL_TYPES


def config_of(file: GGUFFile) -> Any:
    """The configuration of a known architecture.

    Raises:
        UserError: a field is missing, or says something that transformers does not compute.
    """
    from transformers import AutoConfig

    arch = file.fields["general.architecture"]
    fields = _Fields(file, arch)
    heads, hidden, width = _heads(file, fields)
    ids = {name: file.fields.get(f"tokenizer.ggml.{theirs}_token_id")
           for name, theirs in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))}
    return AutoConfig.for_model(_MODEL_TYPES[arch], **ids, **{
        "vocab_size": _stored(file, "token_embd.weight").shape[0], "hidden_size": hidden,
        "intermediate_size": fields("feed_forward_length"), "num_hidden_layers": fields("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": fields("attention.head_count_kv", heads),
        "max_position_embeddings": fields("context_length"), "rms_norm_eps": fields("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in file.tensors, **({} if arch in _DERIVED_WIDTH else {"head_dim": width}),
        "rope_parameters": _rope(file, fields, width), **_OWN[arch](file, fields, width)})


def _heads(file: GGUFFile, fields: _Fields) -> tuple[int, int, int]:
    """How many heads there are, the width of the model and that of a head."""
    heads, hidden = fields("attention.head_count"), fields("embedding_length")
    by_layer = [name for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
                if isinstance(fields(name, None), list)]
    width = 0 if by_layer else fields("attention.key_length", hidden // heads)
    if by_layer or width != fields("attention.value_length", width):
        raise UserError(f"{file.path}: {f'{by_layer[0]} differs by layer' if by_layer else 'keys and values differ in width'}, "
                        "which cannot be read; import the model's Hugging Face folder instead")
    if fields("expert_count", 0):
        raise UserError(f"{file.path}: a mixture of {fields('expert_count')} experts, which cannot be read from GGUF; import the "
                        "model's Hugging Face folder instead")
    return heads, hidden, width


def _stored(file: GGUFFile, name: str) -> Any:
    if name not in file.tensors:
        raise UserError(f"{file.path}: holds no tensor '{name}'; the model is incomplete, make or download it again")
    return file.tensors[name]


def _rope(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    """Rope parameters, of Gemma 3 those of both kinds of layers."""
    theta, context = fields("rope.freq_base", 10000.0), fields("context_length")
    rotated = fields("rope.dimension_count", width)
    if FACTORS in file.tensors:
        rope = rope_of_factors(file.read(FACTORS), theta, context)
    else:
        rope = {"rope_theta": theta, **_scaling(file, fields)}
    if rotated != width:
        rope["partial_rotary_factor"] = rotated / width
    if file.fields["general.architecture"] != "gemma3":
        return rope
    sliding = {"rope_type": "default", "rope_theta": fields("rope.freq_base_swa", 10000.0)}
    return {"full_attention": rope, "sliding_attention": sliding}


def _scaling(file: GGUFFile, fields: _Fields) -> dict[str, Any]:
    kind = fields("rope.scaling.type", "none")
    original = fields("rope.scaling.original_context_length", fields("context_length"))
    attention = fields("rope.scaling.attn_factor", 1.0)
    if LONG in file.tensors:
        return {"rope_type": "longrope", "long_factor": file.read(LONG).tolist(), "short_factor": file.read(SHORT).tolist(),
                "attention_factor": attention, "original_max_position_embeddings": original}
    legacy = fields("rope.scale_linear", 1.0)
    factor = fields("rope.scaling.factor", legacy)
    if factor == 1.0 or (kind == "none" and legacy == 1.0):
        return {"rope_type": "default"}
    if kind in ("linear", "none"):
        return {"rope_type": "linear", "factor": factor}
    odd = [name for name in _MORE_OF_YARN if fields(f"rope.scaling.{name}", None)]
    if kind != "yarn" or odd or attention != 1.0:
        raise UserError(f"{file.path}: scales its rotary embeddings by '{kind}'{f' with {odd[0]}' if odd else ''}, which cannot "
                        "be read; import the model's Hugging Face folder instead")
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            "beta_fast": fields("rope.scaling.yarn_beta_fast", 32.0), "beta_slow": fields("rope.scaling.yarn_beta_slow", 1.0)}


def _llama(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}


def _qwen(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _gemma(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def _gemma_with_windows(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    arch, layers = file.fields["general.architecture"], fields("block_count")
    scaled = layers == WIDTH_SCALED[arch]
    caps = (50.0, 30.0) if arch == "gemma2" else (None, None)
    return {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": fields("attention.sliding_window"),
            "query_pre_attn_scalar": fields("embedding_length") // fields("attention.head_count") if scaled else width,
            "attn_logit_softcapping": fields("attn_logit_softcapping", caps[0]),
            "final_logit_softcapping": fields("final_logit_softcapping", caps[1])}


def _phi3(file: GGUFFile, fields: _Fields, width: int) -> dict[str, Any]:
    return {"sliding_window": fields("attention.sliding_window", None) or None,
            "original_max_position_embeddings": fields("rope.scaling.original_context_length", fields("context_length"))}


_OWN: dict[str, Callable[[GGUFFile, _Fields, int], dict[str, Any]]] = {
    "llama": _llama, "qwen2": _qwen, "qwen3": _qwen, "gemma": _gemma, "gemma2": _gemma_with_windows,
    "gemma3": _gemma_with_windows, "phi3": _phi3}
