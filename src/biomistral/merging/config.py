"""mergekit's YAML, read strictly: what is not supported is refused by name, with its line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from biomistral.errors import UserError
from biomistral.merging.parameters import METHODS
from biomistral.recipe import Document, Settings, nearest, parse

_UNSUPPORTED = {
    "modules": "write 'models' or 'slices' (decoder-only models have one module)",
    "tokenizer": "write 'tokenizer_source: base' or the name of one of the models",
    "residual_weight": "leave it out",
}
_MERGEKIT_METHODS = ("arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "karcher", "model_stock",
                     "multislerp", "nearswap", "nuslerp", "ram", "ramplus_tl", "sce")


class ModelInput(Settings):
    """A model to merge, whole."""

    model: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class SliceSource(ModelInput):
    """Layers ``layer_range[0]`` to ``layer_range[1] - 1`` of a model."""

    layer_range: tuple[int, int]

    @model_validator(mode="after")
    def _sound(self) -> "SliceSource":
        if not 0 <= self.layer_range[0] < self.layer_range[1]:
            raise ValueError(f"layer_range {list(self.layer_range)} holds no layer; write [first, last + 1]")
        return self


class OutputSlice(Settings):
    """Consecutive layers of the result, made of as many layers of each source."""

    sources: list[SliceSource] = Field(min_length=1)
    base_model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class MergeConfig(Settings):
    """The file as a whole."""

    merge_method: str
    models: list[ModelInput] = Field(default_factory=list)
    slices: list[OutputSlice] = Field(default_factory=list)
    base_model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "MergeConfig":
        if bool(self.models) == bool(self.slices):
            raise ValueError("write either 'models' or 'slices', with at least one entry")
        return self


@dataclass(frozen=True)
class MergeFile:
    """A merge configuration and the document it was read from, for messages that name the line."""

    config: MergeConfig
    document: Document

    def where(self, *location: str | int) -> str:
        return self.document.where(location)

    @property
    def model_names(self) -> list[str]:
        """Every model named, the base first, each once."""
        config = self.config
        names = [config.base_model] if config.base_model else []
        names += [entry.model for entry in config.models]
        for part in config.slices:
            names += [part.base_model] if part.base_model else []
            names += [source.model for source in part.sources]
        return list(dict.fromkeys(names))


def read_merge_file(path: Path) -> MergeFile:
    """Read and check a mergekit file; parameters are checked later, where they are resolved.

    Raises:
        UserError: not YAML, an unknown or unsupported key, method or model reference; the message names file and line.
    """
    document = Document(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: a merge configuration is a mapping with 'merge_method' and 'models' or 'slices'; this file "
                        f"holds {'nothing' if document.data is None else type(document.data).__name__}")
    _refuse_unsupported(document, document.data, ())
    merge = MergeFile(parse(MergeConfig, document.data, str(path), document), document)
    _check_method(merge)
    for name in merge.model_names:
        if "+" in name:
            raise UserError(f"{path}: model '{name}' names an adapter after '+'; merge the adapter into its model first and "
                            "name that folder")
    _check_tokenizer(merge)
    return merge


def local_models(config: str) -> list[str]:
    """Names in a mergekit file that are folders of this machine; empty if the file cannot be read (it is refused later)."""
    path = Path(config).expanduser()
    if not path.is_file():
        return []
    try:
        names = read_merge_file(path).model_names
    except UserError:
        return []
    return [name for name in names if Path(name).expanduser().is_dir()]


def _refuse_unsupported(document: Document, data: Any, location: tuple[Any, ...]) -> None:
    steps: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in steps:
        if key in _UNSUPPORTED and "parameters" not in location:
            raise UserError(f"{document.where((*location, key))}: '{key}' is known to mergekit but not supported here; "
                            f"{_UNSUPPORTED[key]}")
        _refuse_unsupported(document, value, (*location, key))


def _check_method(merge: MergeFile) -> None:
    method, where = merge.config.merge_method, merge.where("merge_method")
    if method in _MERGEKIT_METHODS:
        raise UserError(f"{where}: merge_method '{method}' is known to mergekit but not supported here; supported: "
                        f"{', '.join(sorted(METHODS))}")
    if method not in METHODS:
        raise UserError(f"{where}: unknown merge_method '{method}'{nearest(method, METHODS)}")


def _check_tokenizer(merge: MergeFile) -> None:
    source, where = merge.config.tokenizer_source, merge.where("tokenizer_source")
    if source == "union":
        raise UserError(f"{where}: tokenizer_source 'union' is known to mergekit but not supported here (it gives models that "
                        "write garbled text); use 'base' or the name of one of the models")
    if source not in (None, "base", *merge.model_names):
        raise UserError(f"{where}: tokenizer_source '{source}'{nearest(str(source), ['base', *merge.model_names])}")
