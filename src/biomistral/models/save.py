"""Write a model folder: safetensors, config, tokenizer; nothing half-written."""

from pathlib import Path

from transformers import PreTrainedModel

from biomistral.models.folder import copy_tokenizer


def save_model(model: PreTrainedModel, out: Path, tokenizer_from: Path, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write a model and the tokenizer of ``tokenizer_from`` into ``out``."""
    model.save_pretrained(out, max_shard_size=max_shard_bytes)
    copy_tokenizer(tokenizer_from, out)
