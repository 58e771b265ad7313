"""Settings of the ``model`` stage."""

from typing import ClassVar, Literal

from pydantic import Field

from biomistral.recipe import Input, StageSettings


class ModelSettings(StageSettings):
    """Bring a model into the Hugging Face form the other stages read: from a GGUF file, a folder or the hub."""

    kind: ClassVar[str] = "model"
    version: ClassVar[int] = 2
    make: ClassVar[str] = "biomistral.models.importing:import_model"

    source: Input = Field(description="GGUF file, Hugging Face folder, embedded:NAME or hub:ORG/NAME",
                          json_schema_extra={"argument": True})
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="precision of the written weights")
