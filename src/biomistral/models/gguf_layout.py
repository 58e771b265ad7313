"""How transformers' decoders lie in a GGUF file: names of tensors, and what llama.cpp holds otherwise than transformers.

Three things differ. Where llama.cpp rotates neighbouring numbers, not halves, the rows of the query and key projections are
interleaved; Gemma's norms compute with 1 + weight, and the file holds that sum; a head tied to the embeddings is left out.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from biomistral.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """What sets one of llama.cpp's architectures apart."""

    name: str
    rotates_neighbours: bool = False
    norms_hold_sum: bool = False


_LLAMA = Architecture("llama", rotates_neighbours=True)
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", norms_hold_sum=True),
    "gemma2": Architecture("gemma2", norms_hold_sum=True),
    "gemma3_text": Architecture("gemma3", norms_hold_sum=True),
    "phi3": Architecture("phi3"),
}
"""By transformers' ``model_type``."""


def architecture_of(model_type: str, where: object) -> Architecture:
    """The architecture a model is written as.

    Raises:
        UserError: it has no layout here.
    """
    if model_type not in ARCHITECTURES:
        raise UserError(f"{where}: architecture '{model_type}' has no GGUF layout here (known: {', '.join(ARCHITECTURES)}); "
                        "choose another --method for it")
    return ARCHITECTURES[model_type]


class Layout:
    """Where each parameter of a model lies in its GGUF file, and the way of its values there and back."""

    def __init__(self, config: Any, where: object) -> None:
        """``config`` is transformers' configuration of the model.

        Raises:
            UserError: the architecture has no layout here.
        """
        import gguf  # 0.2 s, and most of what reads models never meets a GGUF file

        self._where = where
        self.architecture = architecture_of(config.model_type, where)
        self._heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        by_name = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        self._names = gguf.get_tensor_name_map(by_name[self.architecture.name], config.num_hidden_layers)

    def name(self, parameter: str) -> str:
        """The tensor's name in the file, e.g. ``blk.0.attn_q.weight``.

        Raises:
            UserError: the file has no place for this parameter.
        """
        found: str | None = self._names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(f"{self._where}: '{parameter}' has no place in a GGUF file of architecture "
                            f"'{self.architecture.name}'; llama.cpp does not compute with it, choose another --method")
        return found

    def to_gguf(self, parameter: str, tensor: Tensor) -> Tensor:
        """A parameter's values as llama.cpp wants them, in the same shape; sums in float32."""
        if heads := self._rotated(parameter):
            return interleave(tensor, heads)
        return tensor.float() + 1 if self._is_norm(parameter) else tensor

    def from_gguf(self, parameter: str, tensor: Tensor) -> Tensor:
        """Undo `to_gguf`."""
        if heads := self._rotated(parameter):
            return separate(tensor, heads)
        return tensor.float() - 1 if self._is_norm(parameter) else tensor

    def _rotated(self, parameter: str) -> int:
        """The number of heads whose rows are reordered; 0 where none are."""
        return self._heads.get(parameter.split(".")[-2], 0) if self.architecture.rotates_neighbours else 0

    def _is_norm(self, parameter: str) -> bool:
        return self.architecture.norms_hold_sum and parameter.endswith("norm.weight")


def interleave(tensor: Tensor, heads: int) -> Tensor:
    """Rows (heads x d, ...): in every head i and i + d/2, rotated together by transformers, come to 2i and 2i + 1."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def separate(tensor: Tensor, heads: int) -> Tensor:
    """Undo `interleave`."""
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
