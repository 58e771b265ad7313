"""What mergekit's YAML may hold, as settings: models, slices, modules, tokens; the checks that need no other file."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from biomistral.recipe import Settings


def _reference(data: Any) -> Any:
    """mergekit's long form of a model, ``{model: {path, revision}, lora: ...}``, in its short one: ``path@revision+lora``."""
    if not isinstance(data, dict):
        return data
    if "path" in data:
        return data["path"] if data.get("revision") is None else f"{data['path']}@{data['revision']}"
    parts = [_reference(data[part]) for part in ("model", "lora") if data.get(part) is not None]
    if "model" not in data or not all(isinstance(part, str) for part in parts):
        raise ValueError("a model is a name, MODEL+ADAPTER, or a mapping with 'model' and, for an adapter, 'lora'")
    return "+".join(parts)


Reference = Annotated[str, BeforeValidator(_reference), Field(min_length=1)]
"""A model, ``MODEL`` or ``MODEL+ADAPTER``."""


class ModelInput(Settings):
    """A model to merge, whole."""

    model: Reference
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters", mode="before")
    @classmethod
    def _empty(cls, data: Any) -> Any:
        """``parameters:`` with nothing after it."""
        return {} if data is None else data


class SliceSource(ModelInput):
    """Layers ``layer_range[0]`` to ``layer_range[1] - 1`` of a model."""

    layer_range: tuple[int, int]

    @model_validator(mode="after")
    def _sound(self) -> "SliceSource":
        if not 0 <= self.layer_range[0] < self.layer_range[1]:
            raise ValueError(f"layer_range {list(self.layer_range)} holds no layer; write [first, last + 1]")
        return self


class OutputSlice(Settings):
    """Consecutive layers of the result, made of as many layers of each source; ``merge_method`` is this package's own."""

    sources: list[SliceSource] = Field(min_length=1)
    base_model: Reference | None = None
    merge_method: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Module(Settings):
    """The layers of one module of the result; a decoder-only model has one."""

    models: list[ModelInput] = Field(default_factory=list)
    slices: list[OutputSlice] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> "Module":
        if bool(self.models) == bool(self.slices):
            raise ValueError("write either 'models' or 'slices', with at least one entry")
        return self


class ModelToken(Settings):
    """A token's row of one model, by its text or its number."""

    kind: Literal["model_token"]
    model: Reference
    token: str | None = None
    token_id: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _one(self) -> "ModelToken":
        if (self.token is None) == (self.token_id is None):
            raise ValueError("write either 'token' or 'token_id'")
        return self


class ZeroToken(Settings):
    """A row of zeros."""

    kind: Literal["zero"]


def _kind_of_source(data: Any) -> str:
    kind = data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)
    return str(kind) if kind is not None else "model"


TokenSource = Annotated[Annotated[ModelToken, Tag("model_token")] | Annotated[ZeroToken, Tag("zero")]
                        | Annotated[Reference, Tag("model")], Discriminator(_kind_of_source)]


class TokenSettings(Settings):
    """Where a token's row comes from in models that lack it, or, with ``force``, in all of them."""

    source: TokenSource | None = None
    force: bool = False


class TokenizerSettings(Settings):
    """The vocabulary of the result."""

    source: Reference = "union"
    tokens: dict[str, TokenSettings] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(None, ge=1)


class MergeConfig(Settings):
    """The file as a whole."""

    merge_method: str
    models: list[ModelInput] = Field(default_factory=list)
    slices: list[OutputSlice] = Field(default_factory=list)
    modules: dict[str, Module] = Field(default_factory=dict)
    base_model: Reference | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tokenizer_source: Reference | None = None
    tokenizer: TokenizerSettings | None = None
    chat_template: str | None = None

    @field_validator("dtype", "out_dtype", mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return data.removeprefix("torch.") if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_form(self) -> "MergeConfig":
        if sum(map(bool, (self.models, self.slices, self.modules))) != 1:
            raise ValueError("write either 'models' or 'slices' (or 'modules'), with at least one entry")
        if len(self.modules) > 1:
            raise ValueError(f"'modules' names {', '.join(self.modules)}: a decoder-only model has one module")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("write either 'tokenizer_source' or 'tokenizer'")
        return self
