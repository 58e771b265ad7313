"""Write a model folder: safetensors, config, tokenizer; nothing half-written."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

TOKENIZER_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                      "chat_template.jinja", "chat_template.json", "generation_config.json")


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings from one model folder to another, byte for byte."""
    for pattern in TOKENIZER_PATTERNS:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, out / path.name)


def save_model(model: PreTrainedModel, out: Path, tokenizer_from: Path, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write a model and the tokenizer of ``tokenizer_from`` into ``out``."""
    model.save_pretrained(out, max_shard_size=max_shard_bytes)
    copy_tokenizer(tokenizer_from, out)
