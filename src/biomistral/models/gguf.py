"""Read a GGUF file as a transformers model and tokenizer, both exactly as the file describes them."""

import struct
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.gguf_tokenizer import bpe_tokenizer
from biomistral.models.load import quiet


def read_fields(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file, arrays included.

    Raises:
        UserError: the file is not GGUF, or is truncated or corrupt.
    """
    from gguf import GGUFReader

    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"{path}: not a GGUF file (it does not begin with 'GGUF')")
    try:
        return {name: field.contents() for name, field in GGUFReader(path).fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: truncated or corrupt GGUF ({str(error).splitlines()[0]}); download it again") from error


def load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Load weights (dequantised), tokenizer and licence of a GGUF file.

    Raises:
        UserError: the file is corrupt, of an architecture transformers does not read, or has no known tokenizer.
    """
    fields = read_fields(path)
    quiet()
    folder, name = str(path.parent), path.name
    try:
        if fields.get("tokenizer.ggml.model") == "gpt2":
            tokenizer = bpe_tokenizer(fields, str(path))
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype, local_files_only=True)
    except (KeyError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: GGUF of architecture '{fields.get('general.architecture')}' cannot be read "
                        f"({str(error).splitlines()[0]})") from error
    return _unmark(model), tokenizer, fields.get("general.license")


def _unmark(model: PreTrainedModel) -> PreTrainedModel:
    """Drop what marks the model as quantised: its weights no longer are, and transformers would refuse to save it."""
    model.hf_quantizer = None
    model.is_quantized = False
    for name in ("quantization_method", "_hf_quantizer"):
        if name in model.__dict__:
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""
    return model
