"""Whether models can be merged at all: one architecture, one set of tensors, one meaning for each token."""

from typing import Any

import numpy as np

from biomistral.errors import UserError
from biomistral.merging.blocks import chunks
from biomistral.merging.checkpoint import Checkpoint, Reader
from biomistral.merging.config import MergeFile
from biomistral.merging.vocabulary import read_tokens
from biomistral.models.folder import TOKENIZER_FILES

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_MUST_AGREE = ("model_type", "hidden_act", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Settings that give the same tensor another meaning."""
_SHOULD_AGREE = ("rope_theta", "rope_scaling", "sliding_window", "rms_norm_eps", "max_position_embeddings")


def check_models(merge: MergeFile, models: list[Checkpoint], aligned: bool = False) -> list[str]:
    """Compare every model with the first, the base; returns notes on differences that do not forbid the merge.

    ``aligned``: rows of embeddings are brought together by token, so ids may differ.

    Raises:
        UserError: they differ in architecture, in their tensors, in tied embeddings or in what a token id means.
    """
    base, notes = models[0], []
    _check_tied_head(base)
    for model in models[1:]:
        _check_architecture(base, model)
        _check_tied_head(model)
        _check_outer(base, model)
        if not aligned:
            _check_vocabulary(base, model)
        for key in _SHOULD_AGREE:
            ours, theirs = _setting(base, key), _setting(model, key)
            if ours != theirs:
                notes.append(f"{key} is {theirs} in '{model.name}' and {ours} in '{base.name}': the result takes {ours}")
    asked = merge.tokenizer.source if merge.tokenizer else "base"
    source = models[0] if asked in ("base", "union") else next(model for model in models if model.name == asked)
    if not any((source.folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{source.folder}: has no tokenizer for the result to take; copy its tokenizer files there, or name "
                        "another model as tokenizer_source")
    return notes


def _setting(model: Checkpoint, key: str) -> Any:
    """A setting of config.json; transformers 5 moved the rotary ones into ``rope_parameters``."""
    inner = (model.config.get("rope_parameters") or {}).get(key)
    return model.config.get(key) if inner is None else inner


def _check_architecture(base: Checkpoint, model: Checkpoint) -> None:
    for key in _MUST_AGREE:
        ours, theirs = base.config.get(key), model.config.get(key)
        if ours != theirs and None not in (ours, theirs):
            raise UserError(f"{model.folder / 'config.json'}: {key} is {theirs!r}, in '{base.name}' it is {ours!r}; only models "
                            "of one architecture can be merged")
    if base.stack != model.stack:
        raise UserError(f"{model.folder}: its layers are called {model.stack}, in '{base.name}' {base.stack}; only models of one "
                        "architecture can be merged")
    if base.tied != model.tied:
        tied, untied = (base, model) if base.tied else (model, base)
        raise UserError(f"{model.folder}: '{tied.name}' shares one matrix between embedding and head, '{untied.name}' has two; "
                        "only models that agree in this can be merged")


def _check_outer(base: Checkpoint, model: Checkpoint) -> None:
    ours, theirs = ({*one.outer_tensors} - ({HEAD} if one.tied else set()) for one in (base, model))
    if missing := sorted(ours - theirs):
        raise UserError(f"{model.folder}: has no tensor {missing[0]}, which '{base.name}' has")
    if extra := sorted(theirs - ours):
        raise UserError(f"{model.folder}: has a tensor {extra[0]}, which '{base.name}' has not")


def _check_tied_head(model: Checkpoint) -> None:
    """A tied model may store its head a second time: only as a copy of the embedding, or the two would part in the merge."""
    head, embedding = model.tensors.get(HEAD), model.tensors.get(EMBEDDING)
    if not model.tied or head is None or embedding is None:
        return
    reader, chunk = Reader(2), 1 << 18
    same = head.shape == embedding.shape and head.dtype == embedding.dtype and all(
        np.array_equal(reader.read(0, HEAD, head, start, count), reader.read(1, EMBEDDING, embedding, start, count))
        for start, count in chunks(head.numel, chunk))
    reader.close()
    if not same:
        raise UserError(f"{head.file}: {HEAD} differs from {EMBEDDING}, though config.json says tie_word_embeddings; set it to "
                        "false, or store the head once")


def _check_vocabulary(base: Checkpoint, model: Checkpoint) -> None:
    """An id that is another token in the other model would mix unrelated rows: a result that writes garbled text."""
    ours, theirs = base.folder / "tokenizer.json", model.folder / "tokenizer.json"
    if not (ours.is_file() and theirs.is_file()) or ours.read_bytes() == theirs.read_bytes():
        return
    first, second = ({number: token for token, number in read_tokens(model.folder).items()} for model in (base, model))
    for number in sorted(first.keys() & second.keys()):
        if first[number] != second[number]:
            raise UserError(f"{theirs}: token {number} is {second[number]!r}, in '{base.name}' it is {first[number]!r}; to "
                            "bring tokens together by their text, write tokenizer_source: base, union or the name of a model")
