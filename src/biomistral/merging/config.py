"""mergekit's YAML, read strictly: what is not supported is refused by name, with its line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomistral.errors import UserError
from biomistral.merging.catalogue import METHODS, UNSUPPORTED
from biomistral.merging.schema import MergeConfig, ModelToken, Module, TokenizerSettings
from biomistral.recipe import Document, nearest, parse

Location = tuple[str | int, ...]

_REFUSED = {
    "residual_weight": "mergekit reads it and does nothing with it; leave it out",
    "override_architecture": "only models of one architecture can be merged; leave it out",
    "experts": "this is a file for mergekit-moe, which builds mixtures of experts; write one with 'merge_method'",
    "gate_mode": "this is a file for mergekit-moe, which builds mixtures of experts; write one with 'merge_method'",
    "genome": "this is a file for mergekit-evolve; write the merge it found as a 'merge_method' file",
}
"""Keys of mergekit's files that mean nothing here."""


@dataclass(frozen=True)
class MergeFile:
    """A merge configuration and the document it was read from, for messages that name the line."""

    config: MergeConfig
    document: Document

    def where(self, *location: str | int) -> str:
        return self.document.where(location)

    @property
    def inside(self) -> Location:
        """Where ``models`` and ``slices`` stand: at the top, or in the one module."""
        return ("modules", next(iter(self.config.modules))) if self.config.modules else ()

    @property
    def module(self) -> Module:
        """The models or slices that make the result; its own parameters are empty unless the file has a module."""
        config = self.config
        return next(iter(config.modules.values()), None) or Module(models=config.models, slices=config.slices)

    @property
    def methods(self) -> list[str]:
        """Every merge method named."""
        return list(dict.fromkeys([self.config.merge_method, *(part.merge_method for part in self.module.slices
                                                               if part.merge_method)]))

    @property
    def tokenizer(self) -> TokenizerSettings | None:
        """The vocabulary that is asked for, in either of its two forms."""
        if self.config.tokenizer_source is None:
            return self.config.tokenizer
        return TokenizerSettings(source=self.config.tokenizer_source)

    @property
    def model_names(self) -> list[str]:
        """Every model named, the base first, each once."""
        config, module = self.config, self.module
        names = [config.base_model] if config.base_model else []
        names += [entry.model for entry in module.models]
        for part in module.slices:
            names += [part.base_model] if part.base_model else []
            names += [source.model for source in part.sources]
        return list(dict.fromkeys(names))

    @property
    def places(self) -> list[str]:
        """Every folder that has to be found: models, and the adapters on them."""
        return list(dict.fromkeys(part for name in self.model_names for part in split_reference(name) if part))


def split_reference(name: str) -> tuple[str, str | None]:
    """``MODEL+ADAPTER`` in its two parts."""
    model, _, adapter = name.partition("+")
    return model, adapter or None


def read_merge_file(path: Path) -> MergeFile:
    """Read and check a mergekit file; parameters are checked later, where they are resolved.

    Raises:
        UserError: not YAML, an unknown or unsupported key, method or model reference; the message names file and line.
    """
    _refuse_several(path)
    document = Document(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: a merge configuration is a mapping with 'merge_method' and 'models' or 'slices'; this file "
                        f"holds {'nothing' if document.data is None else type(document.data).__name__}")
    _refuse_known(document, document.data, ())
    merge = MergeFile(parse(MergeConfig, _without_nothing(document.data), str(path), document), document)
    _check_method(merge, ("merge_method",))
    for index, part in enumerate(merge.module.slices):
        if part.merge_method:
            _check_method(merge, (*merge.inside, "slices", index, "merge_method"))
    for name in merge.model_names:
        model, adapter = split_reference(name)
        if not model or name.count("+") > 1 or ("+" in name and not adapter):
            raise UserError(f"{path}: model '{name}': one adapter at most can stand after '+': MODEL+ADAPTER")
    _check_tokenizer(merge)
    return merge


def local_models(config: str) -> list[str]:
    """Names in a mergekit file that are folders of this machine; empty if the file cannot be read (it is refused later)."""
    path = Path(config).expanduser()
    if not path.is_file():
        return []
    try:
        names = read_merge_file(path).places
    except UserError:
        return []
    return [name for name in names if Path(name).expanduser().is_dir()]


def _refuse_several(path: Path) -> None:
    """mergekit-mega reads a chain of merges from one file; here each is a stage of its own."""
    try:
        starts = [event.start_mark for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
                  if isinstance(event, yaml.DocumentStartEvent)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # `Document` says what is wrong
    if len(starts) > 1:
        line = f":{starts[1].line + 1}" if starts[1] else ""
        raise UserError(f"{path}{line}: a second document begins: a file for mergekit-mega or mergekit-multi; write one file for "
                        "each merge and name the folder of one in the next")


def _without_nothing(data: Any) -> Any:
    """The file without keys that have no value, which mergekit takes as not written."""
    if isinstance(data, dict):
        return {key: _without_nothing(value) for key, value in data.items() if value is not None}
    return [_without_nothing(value) for value in data] if isinstance(data, list) else data


def _refuse_known(document: Document, data: Any, location: tuple[Any, ...]) -> None:
    steps: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in steps:
        if key in _REFUSED and value is not None and "parameters" not in location and "tokens" not in location:
            raise UserError(f"{document.where((*location, key))}: '{key}' is known to mergekit but not supported here: "
                            f"{_REFUSED[key]}")
        _refuse_known(document, value, (*location, key))


def _check_method(merge: MergeFile, location: Location) -> None:
    data, where = merge.document.data, merge.where(*location)
    for step in location:
        data = data[step]
    if data in UNSUPPORTED:
        raise UserError(f"{where}: merge_method '{data}' is known to mergekit but not supported here; supported: "
                        f"{', '.join(sorted(METHODS))}")
    if data not in METHODS:
        raise UserError(f"{where}: unknown merge_method '{data}'{nearest(str(data), METHODS)}")


def _check_tokenizer(merge: MergeFile) -> None:
    tokenizer, names = merge.tokenizer, merge.model_names
    if tokenizer is None:
        return
    location = ("tokenizer", "source") if merge.config.tokenizer else ("tokenizer_source",)
    if tokenizer.source not in ("union", "base", *names):
        raise UserError(f"{merge.where(*location)}: {'.'.join(location)} '{tokenizer.source}'"
                        f"{nearest(tokenizer.source, ['union', 'base', *names])}")
    for token, settings in tokenizer.tokens.items():
        source, where = settings.source, merge.where("tokenizer", "tokens", token)
        model = source.model if isinstance(source, ModelToken) else source if isinstance(source, str) else None
        if model is not None and model not in names:
            raise UserError(f"{where}: the row of token {token!r} is to come from '{model}', which is not merged"
                            f"{nearest(model, names)}")
        if settings.force and source is None:
            raise UserError(f"{where}: 'force' gives every model the same row for token {token!r}; say whose with 'source'")
