"""What is refused before any work: a corpus of another tokenizer, sequences the model has no positions for."""

from pathlib import Path

from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer, read_config, tokenizer_digest, weight_files
from biomistral.training.packed import read_packing


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
    positions = config.get("max_position_embeddings")
    if positions is not None and sequence_length > positions:
        raise UserError(f"{folder}: the model has {positions} positions, sequences have {sequence_length} tokens; use "
                        "shorter sequences")


def check_corpus(corpus: Path, model: Path) -> None:
    """Refuse a corpus whose tokens do not mean to this model what they meant when it was packed.

    Raises:
        UserError: another tokenizer, more tokens than the model has embeddings, or nothing to train on.
    """
    packing = read_packing(corpus)
    vocabulary = read_config(model).get("vocab_size")
    if vocabulary is not None and packing["vocab_size"] > vocabulary:
        raise UserError(f"{corpus}: packed with a vocabulary of {packing['vocab_size']} entries, the model {model} has "
                        f"{vocabulary}; build the corpus with --tokenizer {model}")
    found = tokenizer_digest(load_tokenizer(model))
    if packing["tokenizer"] != found:
        raise UserError(f"{corpus}: packed with another tokenizer (SHA-256 {packing['tokenizer'][:12]}, the model {model} has "
                        f"{found[:12]}); build the corpus with --tokenizer {model}")
    if not packing["train"]["blocks"]:
        raise UserError(f"{corpus}: holds no sequence to train on; add documents, or keep fewer for the held-out set")
