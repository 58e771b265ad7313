"""One vocabulary for all models, by the text of the tokens: mergekit's ``tokenizer`` and ``tokenizer_source``.

A model that lacks a token takes the base's row for it, the row of the only model that has it, or the mean of those that do;
``tokens`` may say otherwise. Rows are only looked up here: `alignment` reads them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from biomistral.errors import UserError
from biomistral.merging.checkpoint import Checkpoint
from biomistral.merging.config import MergeFile
from biomistral.merging.schema import ModelToken, TokenizerSettings, TokenSettings, ZeroToken

NAMES = ("embed_tokens.weight", "tok_embeddings.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight",
         "embed_out.weight", "lm_head.weight", "lm_head.bias", "output.weight", "output_layer.weight")
"""Ends of the names of tensors with one row a token."""


@dataclass(frozen=True)
class Donors:
    """Where one row comes from: the mean of rows of models; none gives zeros."""

    rows: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of the result and every model's own: token -> id.

    ``size`` counts the result's rows, padding included, ``rows_of`` those of each model.
    """

    tokenizer: Tokenizer
    source: Checkpoint
    tokens: dict[str, int]
    size: int
    own: dict[str, dict[str, int]]
    rows_of: dict[str, int]
    settings: dict[str, TokenSettings]
    added: tuple[AddedToken, ...] = ()
    notes: list[str] = field(default_factory=list)

    def rows(self, model: str, models: list[str], base: str | None) -> Iterator[tuple[int, Donors]]:
        """Where each row of one of the ``models`` that make a tensor comes from, by id in the result, in order."""
        own, forced = self.own[model], {token for token, settings in self.settings.items() if settings.force}
        for token, number in sorted(self.tokens.items(), key=lambda item: item[1]):
            row = own.get(token)
            if row is not None and token not in forced:
                yield number, Donors(((model, row),))
            else:
                having = {name: self.own[name][token] for name in models if token in self.own[name]}
                yield number, self._missing(token, having, base, models)

    def _missing(self, token: str, having: dict[str, int], base: str | None, models: list[str]) -> Donors:
        """What stands in for a token in the models that lack it."""
        settings = self.settings.get(token)
        if settings is not None and settings.source is not None:
            return self._named(token, settings.source, models)
        if base in having:
            return Donors(((str(base), having[str(base)]),))
        return Donors(tuple(having.items()))

    def _named(self, token: str, source: ModelToken | ZeroToken | str, models: list[str]) -> Donors:
        if isinstance(source, ZeroToken):
            return Donors()
        model = source if isinstance(source, str) else source.model
        if model not in models:
            raise UserError(f"tokenizer.tokens: the row of {token!r} is to come from '{model}', which has no part in the slice "
                            "that embeddings are made of; name one that has")
        if isinstance(source, ModelToken) and source.token_id is not None:
            if source.token_id >= self.rows_of[model]:
                raise UserError(f"tokenizer.tokens: '{model}' has {self.rows_of[model]} rows, none for the token_id "
                                f"{source.token_id} that {token!r} is to have")
            return Donors(((model, source.token_id),))
        wanted = source.token if isinstance(source, ModelToken) else token
        if wanted not in self.own[model]:
            raise UserError(f"tokenizer.tokens: '{model}' has no token {wanted!r} to give a row for {token!r}")
        return Donors(((model, self.own[model][str(wanted)]),))


def read_tokens(folder: Path) -> dict[str, int]:
    """Token -> id of a model folder's ``tokenizer.json``, added tokens included.

    Raises:
        UserError: it has none, or one that cannot be read.
    """
    path = folder / "tokenizer.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        vocab = data["model"]["vocab"]
        tokens = dict(vocab) if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)}
        return {**tokens, **{entry["content"]: int(entry["id"]) for entry in data.get("added_tokens") or ()}}
    except FileNotFoundError as error:
        raise UserError(f"{folder}: has no tokenizer.json, which aligning vocabularies needs; save its tokenizer with "
                        "transformers' fast tokenizer") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not a readable tokenizer ({error})") from error


def settle_vocabulary(merge: MergeFile, models: dict[str, Checkpoint]) -> Vocabulary | None:
    """The vocabulary the file asks for; None if all models have it already, row for row, so that nothing is to be done.

    Raises:
        UserError: a tokenizer that is missing or cannot be read, or a token without a row in the model it belongs to.
    """
    asked = merge.tokenizer
    if asked is None:
        return None
    base = models[merge.model_names[0]]
    source = base if asked.source in ("base", "union") else models[asked.source]
    rows = {num_rows(model) for model in models.values()}
    plain = len(rows) == 1 and not asked.tokens and asked.pad_to_multiple_of is None
    if plain and asked.source != "union" and not any((model.folder / "tokenizer.json").is_file() for model in models.values()):
        return None  # nothing to compare: a tokenizer in another form is taken as it is
    chosen = read_tokens(source.folder)
    notes: list[str] = []
    own = {name: _own_tokens(name, model, chosen, base, notes) for name, model in models.items()}
    if plain and all(tokens == chosen for tokens in own.values()):
        return None
    if lost := [token for token, number in chosen.items() if number >= num_rows(source)]:
        raise UserError(f"{source.folder}: token {lost[0]!r} ({chosen[lost[0]]}) is past the model's {num_rows(source)} rows; "
                        "name another model as tokenizer_source")
    return _build(asked, source, models, own, notes)


def num_rows(model: Checkpoint) -> int:
    """Rows of a model's embedding."""
    for name in model.outer_tensors:
        if name.endswith(NAMES) and len(model.tensors[name].shape) == 2:
            return model.tensors[name].shape[0]
    raise UserError(f"{model.folder}: no embedding was found among {', '.join(model.outer_tensors)}; its vocabulary cannot be "
                    "aligned")


def _own_tokens(name: str, model: Checkpoint, chosen: dict[str, int], base: Checkpoint, notes: list[str]) -> dict[str, int]:
    """A model's tokens that have a row; a model without a tokenizer is taken to have the base's."""
    if not (model.folder / "tokenizer.json").is_file() and model is not base:
        notes.append(f"'{name}' has no tokenizer.json: taken to have the tokens of '{base.name}'")
        tokens = read_tokens(base.folder)
    else:
        tokens = read_tokens(model.folder)
    size = num_rows(model)
    kept = {token: number for token, number in tokens.items() if number < size}
    if len(kept) < len(tokens):
        notes.append(f"'{name}' has {len(tokens) - len(kept)} tokens without a row in its embedding: taken as missing there")
    return kept


def _build(asked: TokenizerSettings, source: Checkpoint, models: dict[str, Checkpoint], own: dict[str, dict[str, int]],
           notes: list[str]) -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(source.folder / "tokenizer.json"))
    known, added = set(read_tokens(source.folder)), []
    if asked.source == "union":
        added += _union(models, own, known, notes)
    added += [AddedToken(token, normalized=True) for token in asked.tokens if token not in known]
    for token in added:  # one at a time: the library gives ids in this order
        tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
    tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    step = asked.pad_to_multiple_of or 1
    size = -(-max(max(tokens.values()) + 1, len(tokens)) // step) * step
    rows_of = {name: num_rows(model) for name, model in models.items()}
    return Vocabulary(tokenizer, source, tokens, size, own, rows_of, asked.tokens, tuple(added), notes)


def _union(models: dict[str, Checkpoint], own: dict[str, dict[str, int]], known: set[str], notes: list[str]
           ) -> list[AddedToken]:
    """The tokens that the base lacks: first the models' ordinary ones, model by model in the order of their ids, then those
    that were added to the models' own tokenizers."""
    ordinary, later = [], []
    for model, tokens in own.items():
        theirs = _added_tokens(models[model].folder)
        extra = [token for token in sorted(tokens, key=tokens.__getitem__) if token not in known]
        known.update(extra)
        ordinary += [AddedToken(token, normalized=True) for token in extra if token not in theirs]
        later += [theirs[token] for token in extra if token in theirs]
        if extra:
            notes.append(f"{len(extra)} tokens of '{model}' are added to the base's, such as {extra[0]!r}: text that holds one "
                         "is cut there first")
    return ordinary + later


def _added_tokens(folder: Path) -> dict[str, AddedToken]:
    path = folder / "tokenizer.json"
    entries = json.loads(path.read_text(encoding="utf-8")).get("added_tokens") or () if path.is_file() else ()
    return {entry["content"]: AddedToken(entry["content"], single_word=entry["single_word"], lstrip=entry["lstrip"],
                                         rstrip=entry["rstrip"], normalized=entry["normalized"], special=entry["special"])
            for entry in entries}


def added_entries(vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    """The added tokens as ``tokenizer_config.json`` lists them in ``added_tokens_decoder``."""
    return {str(vocabulary.tokens[token.content]): {
        "content": token.content, "lstrip": token.lstrip, "normalized": token.normalized, "rstrip": token.rstrip,
        "single_word": token.single_word, "special": token.special} for token in vocabulary.added}
