"""Small inputs for the training tests: a packed corpus folder, and prompts with completions."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.models.load import load_tokenizer, tokenizer_digest
from biomistral.training.watching.metrics import MetricsLog

SENTENCES = [
    "The description of code E11.9 is type 2 diabetes mellitus without complications.",
    "The description of code I10 is essential hypertension.",
    "Aspirin 100 mg daily; metformin 500 mg twice a day, with fever and acute pain.",
    "The liver, the kidney and the brain. ÄÖÜ é ß 中文",
    "Yes.",
]


def write_split(corpus: Path, split: str, pieces: list[tuple[str, list[int]]], sequence_length: int,
                shard_blocks: list[int]) -> dict[str, int]:
    """Lay pieces end to end, cut them into blocks and shards; the last, short block is left out."""
    flat = np.concatenate([ids for _, ids in pieces]).astype(np.uint16)
    blocks = flat[: len(flat) // sequence_length * sequence_length].reshape(-1, sequence_length)
    assert sum(shard_blocks) == len(blocks), len(blocks)
    owner = np.concatenate([np.full(len(ids), number) for number, (_, ids) in enumerate(pieces)])
    (corpus / "shards").mkdir(parents=True, exist_ok=True)
    first = 0
    for number, count in enumerate(shard_blocks):
        begin, end = first * sequence_length, (first + count) * sequence_length
        owners = owner[begin:end]
        starts = np.flatnonzero(np.append(True, np.diff(owners) != 0))
        lengths = np.diff(np.append(starts, len(owners)))
        table = pa.table({"start": pa.array(starts, pa.int64()), "length": pa.array(lengths, pa.int32()),
                          "document": [pieces[owners[start]][0] for start in starts]})
        np.save(corpus / "shards" / f"{split}-{number:05d}.tokens.npy", blocks[first:first + count])
        pq.write_table(table, corpus / "shards" / f"{split}-{number:05d}.pieces.parquet")
        first += count
    return {"blocks": len(blocks), "tokens": blocks.size, "pieces": len(pieces), "documents": len(pieces),
            "bytes": 3 * blocks.size}


def make_corpus(corpus: Path, model: Path, sequence_length: int = 32, repeats: int = 8) -> Path:
    """A packed corpus of a few sentences, in two shards, with a held-out split of one block or more."""
    tokenizer = load_tokenizer(model)
    ids = [[1, *tokenizer(text, add_special_tokens=False).input_ids, 2] for text in SENTENCES]
    train = [(f"doc{number}-{turn}", ids[number]) for turn in range(repeats) for number in range(len(ids))]
    heldout = [(f"held{number}", ids[number]) for number in range(len(ids))]
    blocks = sum(len(piece) for _, piece in train) // sequence_length
    held_blocks = sum(len(piece) for _, piece in heldout) // sequence_length
    packing = {"sequence_length": sequence_length, "vocab_size": len(tokenizer), "dtype": "uint16",
               "tokenizer": tokenizer_digest(tokenizer), "bos": True, "eos": True,
               "train": write_split(corpus, "train", train, sequence_length, [blocks // 2, blocks - blocks // 2]),
               "heldout": write_split(corpus, "heldout", heldout, sequence_length, [held_blocks])}
    (corpus / "packing.json").write_text(json.dumps(packing))
    return corpus


def make_examples(path: Path, repeats: int = 6) -> Path:
    """A JSONL file of prompts and completions."""
    facts = {"E11.9": "type 2 diabetes mellitus", "I10": "essential hypertension", "R50": "fever", "N18": "chronic kidney"}
    rows = [{"prompt": f"What is {code}? Answer:", "completion": f" {text}", "id": f"{code}-{turn}"}
            for turn in range(repeats) for code, text in facts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def interrupted_in_step(step: int) -> Iterator[None]:
    """Training inside is sent Ctrl-C when it notes this step, and must end by it."""
    add = MetricsLog.add

    def interrupt(self: MetricsLog, row: dict[str, Any]) -> None:
        add(self, row)
        if row["step"] == step and "loss" in row:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield
