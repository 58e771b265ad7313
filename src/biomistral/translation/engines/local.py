"""Models of this machine under transformers: sequence to sequence where their configuration says so, else chats."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.translation.engine import Engine
from biomistral.translation.engines.build import Means
from biomistral.translation.settings import Translator

BATCH_CHARACTERS = 6000
"""Characters of a batch, padding included; about 1,500 tokens."""


def make(translator: Translator, means: Means) -> Engine:
    """
    Raises:
        UserError: the folder holds no model, or one that nobody knows how to ask.
    """
    assert translator.model is not None
    folder = means.work.locate(translator.model)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: holds no config.json; give the folder of a model as the hub has it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("is_encoder_decoder"):
        from biomistral.translation.engines.seq2seq import Seq2Seq

        return Seq2Seq(folder, means.work.machine.device)
    from biomistral.translation.engines.chat import Chat

    return Chat(folder, means.work.machine.device)


def identity_of(folder: Path) -> dict[str, Any]:
    """Who a model is: its name for people, and its content."""
    import transformers

    return {"engine": "transformers", "version": transformers.__version__, "model": folder.name,
            "content": content_digest(folder)[:16]}


def batches(lengths: Sequence[int], most: int = BATCH_CHARACTERS) -> Iterator[list[int]]:
    """Numbers of texts of much the same length, the longest first, so that little is padded and memory that does not suffice is
    found out at once; padded, they are at most so long together."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * max(1, lengths[batch[0]]) > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
