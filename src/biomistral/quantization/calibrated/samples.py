"""Token sequences to calibrate and to measure on, from a corpus's held-out shards or from a text file."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer, tokenizer_digest
from biomistral.seeds import seed


def draw(source: Path, model: Path, vocab_size: int, length: int, count: int, root: int) -> Tensor:
    """``count`` different sequences of ``length`` tokens, (count, length) int64, drawn without replacement.

    Raises:
        UserError: the source cannot be read, has too few tokens, or tokens that the model does not know.
    """
    tokenizer = load_tokenizer(model)
    tokens = _from_corpus(source, tokenizer) if source.is_dir() else _from_text(source, tokenizer)
    pieces = sum(len(part) // length for part in tokens)
    if pieces < count:
        raise UserError(f"{source}: {sum(map(len, tokens)):,} tokens give {pieces} sequences of {length}, {count} are needed "
                        "(samples + evaluation_samples); give more text, or lower samples or sequence_length")
    starts = [(part, start) for part in tokens for start in range(0, len(part) - length + 1, length)]
    chosen = np.random.Generator(np.random.PCG64(seed(root, "quantize", "samples"))).permutation(len(starts))[:count]
    sequences = np.stack([starts[i][0][starts[i][1]:starts[i][1] + length] for i in chosen]).astype(np.int64)
    if sequences.max() >= vocab_size:
        raise UserError(f"{source}: holds token {sequences.max()}, the model knows {vocab_size}; "
                        "the corpus was packed with another model's tokenizer")
    return torch.from_numpy(sequences)


def _from_corpus(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The held-out shards, flattened, memory-mapped."""
    paths = sorted((folder / "shards").glob("heldout-*.tokens.npy"))
    if not paths:
        raise UserError(f"{folder}: has no shards/heldout-*.tokens.npy; give a corpus folder, a .txt or a .jsonl file")
    packing = folder / "packing.json"
    packed_with = json.loads(packing.read_text(encoding="utf-8"))["tokenizer"] if packing.is_file() else None
    if packed_with not in (None, tokenizer_digest(tokenizer)):
        raise UserError(f"{packing}: packed with another tokenizer than the model's; build the corpus with this model's")
    try:
        return [np.load(path, mmap_mode="r", allow_pickle=False).reshape(-1) for path in paths]
    except (ValueError, EOFError) as error:
        raise UserError(f"{folder / 'shards'}: held-out shards cannot be read ({error}); build the corpus again") from error


def _from_text(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    ids: list[int] = []
    for text in _texts(path):
        ids += tokenizer(text, verbose=False).input_ids
    return [np.array(ids, dtype=np.int64)]


def _texts(path: Path) -> Iterator[str]:
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"{path}: calibration text must be .txt, .jsonl or a corpus folder")
    try:
        with path.open(encoding="utf-8") as stream:
            if path.suffix == ".txt":
                yield stream.read()
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _text_field(path, number, line)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _text_field(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f"{path}:{number}: an object with a string field 'text' was expected")
    return str(row["text"])
