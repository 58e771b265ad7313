"""What is refused before any work: a corpus of another tokenizer, sequences the model has no positions for."""

from pathlib import Path
from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.models.folder import read_config, weight_files
from biomistral.models.load import load_tokenizer, tokenizer_digest
from biomistral.training.data.packed import read_packing

_STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rope scaling whose factor multiplies the positions, unless the number before stands beside it: then it has."""


def _positions(config: dict[str, Any]) -> int | None:
    """The longest sequence a model has positions for, its rope scaling included; None if it does not say."""
    positions, rope = config.get("max_position_embeddings"), config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if positions is None or kind not in _STRETCHED or "original_max_position_embeddings" in rope:
        return positions
    return int(positions * rope.get("factor", 1))


def check_model_folder(folder: Path, sequence_length: int) -> None:
    """Refuse a model that cannot be trained on sequences of this length.

    Raises:
        UserError: it is no model folder, is quantised, or has fewer positions than a sequence has tokens.
    """
    config = read_config(folder)
    weight_files(folder)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise UserError(f"{folder}: a quantised model ({method}) cannot be trained; give the 16-bit model it was made from")
    positions = _positions(config)
    if positions is not None and sequence_length > positions:
        raise UserError(f"{folder}: the model has {positions} positions, sequences have {sequence_length} tokens; use "
                        "shorter sequences")


def check_corpus(corpus: Path, model: Path) -> None:
    """Refuse a corpus whose tokens do not mean to this model what they meant when it was packed.

    Raises:
        UserError: another tokenizer, more tokens than the model has embeddings, or nothing to train on.
    """
    packing = read_packing(corpus)
    vocabulary, dtype = read_config(model).get("vocab_size"), packing.get("dtype", "uint32")
    if dtype not in ("uint16", "uint32") or packing["vocab_size"] > np.iinfo(dtype).max + 1:
        raise UserError(f"{corpus / 'packing.json'}: a vocabulary of {packing['vocab_size']} entries in shards of {dtype}, which "
                        "cannot hold it; build the corpus again")
    if vocabulary is not None and packing["vocab_size"] > vocabulary:
        raise UserError(f"{corpus}: packed with a vocabulary of {packing['vocab_size']} entries, the model {model} has "
                        f"{vocabulary}; build the corpus with --tokenizer {model}")
    found = tokenizer_digest(load_tokenizer(model))
    if packing["tokenizer"] != found:
        raise UserError(f"{corpus}: packed with another tokenizer (SHA-256 {packing['tokenizer'][:12]}, the model {model} has "
                        f"{found[:12]}); build the corpus with --tokenizer {model}")
    if not packing["train"]["blocks"]:
        raise UserError(f"{corpus}: holds no sequence to train on; add documents, or keep fewer for the held-out set")
